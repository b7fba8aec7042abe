#include "aspis/bench/compare.h"

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "aspis/base/error.h"

using namespace aspis;
using nlohmann::json;

namespace {

json row(const std::string& name, double ms, double spread = 0.02, double share = 0.5) {
  return {{"kind", "operator"},     {"name", name},      {"case", "a"},
          {"dtype", "float32"},     {"isa", "avx2"},     {"cpu", "X"},
          {"threads", 2},           {"forward_ms", ms},  {"forward_spread", spread},
          {"forward_share", share}, {"both_ms", nullptr}};
}

using Rows = std::vector<json>;

bench::Comparison compare(const Rows& a, const Rows& b, const bench::CompareOptions& o = {}) {
  return bench::compare_results(json(a).dump(), "old.json", json(b).dump(), "new.json", o);
}

std::string verdict(const bench::Comparison& c, size_t i = 0) {
  return json::parse(c.table.render(report::TableFormat::kJson))[i]["verdict"];
}

}  // namespace

TEST_CASE("changes beyond threshold and spread count, smaller ones and noisy ones do not") {
  CHECK(verdict(compare({row("x", 10)}, {row("x", 10.9)})) == "same");
  const auto slower = compare({row("x", 10)}, {row("x", 11.2)});
  CHECK(verdict(slower) == "slower");
  CHECK(slower.slower == 1);
  CHECK(compare({row("x", 10)}, {row("x", 11.2)}, {.threshold = 0.2}).slower == 0);
  const auto faster = compare({row("x", 10)}, {row("x", 8)});
  CHECK(verdict(faster) == "faster");
  CHECK(faster.slower == 0);
  CHECK(faster.faster == 1);
  const auto noisy = compare({row("x", 10, 0.3)}, {row("x", 12)});
  CHECK(verdict(noisy) == "within spread");
  CHECK(noisy.slower == 0);
}

TEST_CASE("rows are matched by what they measured; the rest is listed") {
  json other = row("x", 99);
  other["threads"] = 1;
  const auto c = compare({row("x", 10), row("gone", 1)}, {other, row("new", 1), row("x", 10)});
  CHECK(c.same == 1);
  CHECK(c.only_old == 1);
  CHECK(c.only_new == 2);
  CHECK(c.slower == 0);
  CHECK(c.table.row_count() == 4);
}

TEST_CASE("the level with units for bfloat16 is avx512 to rows of other dtypes") {
  json plain = row("x", 10), with_units = row("x", 10);
  plain["isa"] = "avx512";
  with_units["isa"] = "avx512_bf16";
  CHECK(compare({plain}, {with_units}).same == 1);
  plain["dtype"] = with_units["dtype"] = "bfloat16";
  CHECK(compare({plain}, {with_units}).same == 0);
}

TEST_CASE("shares of the bound compare two machines; a smaller share is slower") {
  json a = row("x", 10, 0.0, 0.8), b = row("x", 5, 0.0, 0.4);
  b["cpu"] = "Y";
  CHECK(compare({a}, {b}).notes.size() == 1);
  const auto c = compare({a}, {b}, {.by_share = true});
  CHECK(c.slower == 1);
  CHECK(c.notes.empty());
  CHECK(json::parse(c.table.render(report::TableFormat::kJson))[0]["ratio"] == 2.0);
}

TEST_CASE("a machine that was busy in one of the sittings is told") {
  json a = row("x", 10), b = row("x", 20);
  a["fma_gflops"] = 500, b["fma_gflops"] = 480;
  CHECK(compare({a}, {b}).notes.empty());
  b["fma_gflops"] = 260;
  const auto c = compare({a}, {b});
  CHECK(c.slower == 1);
  REQUIRE(c.notes.size() == 1);
  CHECK(c.notes[0].find("not equally free") != std::string::npos);
}

TEST_CASE("what is no result is refused with the name of the file") {
  const Rows good{row("x", 10)};
  for (const std::string& text : {std::string("{}"), std::string("[1]"), std::string("[{}]"), std::string("[{"),
                                  json(Rows{row("x", -1)}).dump(), std::string()}) {
    CAPTURE(text);
    CHECK_THROWS_WITH_AS(bench::compare_results(json(good).dump(), "old.json", text, "new.json"),
                         doctest::Contains("new.json"), Error);
  }
  CHECK_THROWS_AS(compare(good, good, {.threshold = -1}), Error);
}
