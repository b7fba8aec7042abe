#include "aspis/bench/memory.h"

#include <doctest/doctest.h>
#include <mlx/memory.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "aspis/base/error.h"

using namespace aspis;
using bench::MemoryPoint;

namespace {

const MemoryPoint& at(const std::vector<MemoryPoint>& points, std::string_view form, bool training,
                      int64_t length) {
  const auto it = std::find_if(points.begin(), points.end(), [&](const MemoryPoint& p) {
    return p.form == form && p.training == training && p.length == length;
  });
  REQUIRE_MESSAGE(it != points.end(), form);
  return *it;
}

}  // namespace

TEST_CASE("peak memory of ssd and mamba3 is linear in the length, that of attention with scores is not") {
  bench::MemoryOptions o;
  o.lengths = {256, 2048};
  o.heads = 2, o.headdim = 16, o.state = 16;
  const auto points = bench::measure_memory(o);
  CHECK(points.size() == bench::memory_forms().size() * 2 * 2);
  // Eight times the tokens. The engine hands work over ahead of its execution,
  // so that a peak differs from run to run by the buffers in flight.
  for (const bool training : {false, true}) {
    CAPTURE(training);
    for (const char* form : {"ssd", "mamba3", "attention"}) {
      CAPTURE(form);
      const MemoryPoint &a = at(points, form, training, 256), &b = at(points, form, training, 2048);
      CHECK(b.engine_peak < 2 * 8 * a.engine_peak);
      CHECK(b.engine_peak < 20 * b.inputs);
      CHECK(b.engine_peak > b.inputs);
    }
    for (const char* form : {"mlx attention", "composed attention"}) {
      CAPTURE(form);
      const MemoryPoint &a = at(points, form, training, 256), &b = at(points, form, training, 2048);
      CHECK(b.engine_peak > 3 * 8 * a.engine_peak);
      CHECK(b.engine_peak > 2.0 * 2048 * 2048 * 4);  // the scores alone
      CHECK(b.engine_peak > 4 * at(points, "ssd", training, 2048).engine_peak);
    }
  }
  // Results and gradients are there besides the inputs, and nothing of the case before.
  const MemoryPoint& p = at(points, "ssd", true, 256);
  CHECK(p.engine_peak >= 2 * p.inputs);
  CHECK(at(points, "ssd", false, 256).engine_peak < p.engine_peak);
}

TEST_CASE("a case that is expected to be over the limit is not run, and its figures are marked") {
  bench::MemoryOptions o;
  o.forms = {"composed attention"};
  o.lengths = {256, 512, 1024, 2048, 4096};
  o.heads = 1, o.headdim = 8;
  o.limit_bytes = 20e6;
  const auto points = bench::measure_memory(o);
  CHECK(at(points, "composed attention", false, 512).measured);
  const MemoryPoint& left_out = at(points, "composed attention", false, 4096);
  CHECK_FALSE(left_out.measured);
  CHECK(left_out.engine_peak > o.limit_bytes);
  CHECK(left_out.engine_peak > 4096.0 * 4096 * 4);
  const auto rows = nlohmann::json::parse(bench::memory_table(points).render(report::TableFormat::kJson));
  CHECK(rows.size() == points.size());
  CHECK(rows[0]["measured"] == true);
  CHECK(rows[4]["measured"] == false);
  for (const auto& plot : bench::memory_plots(points)) {
    for (const auto& curve : plot.curves) CHECK(curve.x.back() < 4096);
  }
}

TEST_CASE("arrays that live elsewhere in the program are not counted, and wrong input is one sentence") {
  bench::MemoryOptions o;
  o.forms = {"ssd"};
  o.lengths = {256};
  o.heads = 1, o.headdim = 8, o.state = 8;
  const double alone = bench::measure_memory(o)[0].engine_peak;
  mlx::core::array other = mlx::core::array(std::vector<float>(1 << 20).data(), {1 << 20}, mlx::core::float32);
  CHECK(bench::measure_memory(o)[0].engine_peak < alone + 1e6);  // the other one has 4 MB
  o.forms = {"sdd"};
  CHECK_THROWS_WITH_AS(bench::measure_memory(o), doctest::Contains("ssd"), Error);
  o.forms = {};
  o.lengths = {0};
  CHECK_THROWS_AS(bench::measure_memory(o), Error);
}
