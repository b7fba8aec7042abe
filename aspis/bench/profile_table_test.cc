#include "aspis/bench/profile_table.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "aspis/bench/measure.h"
#include "aspis/train/optimizer.h"

using namespace aspis;
using nlohmann::json;

namespace {

// Two evaluations of exp(x x) with a transposed sum.
void run(int times) {
  for (int i = 0; i < times; i++) {
    const auto x = mx::ones({64, 32});
    ops::evaluate({mx::sum(mx::transpose(mx::exp(x * x)))});
  }
}

harness::MachineBounds bounds() {
  harness::MachineBounds b;
  b.fma_flops = 1e9, b.exps = 1e9, b.bytes = 1e9;
  return b;
}

const bench::ProfileRow& row_of(const bench::ProfileSummary& s, std::string_view name) {
  const auto it = std::find_if(s.rows.begin(), s.rows.end(), [&](const auto& r) { return r.name == name; });
  REQUIRE(it != s.rows.end());
  return *it;
}

}  // namespace

TEST_CASE("a profile sums calls, bytes and bounds, and names what the engine ran itself") {
  const ops::Profiler p;
  run(2);
  const auto s = bench::summarize_profile(p, bounds(), 0.0);
  CHECK(s.evaluations == 2);
  const auto& exp = row_of(s, "Exp");
  CHECK(exp.engine);
  CHECK(exp.calls == 2);
  CHECK(exp.bytes == 2 * 2 * 64 * 32 * 4);
  CHECK(exp.bound_seconds == doctest::Approx(exp.bytes / 1e9));
  CHECK(row_of(s, "Transpose").bytes == 0);
  CHECK(std::count(s.findings.begin(), s.findings.end(), "Exp") == 1);
  CHECK(std::is_sorted(s.rows.begin(), s.rows.end(),
                       [](const auto& a, const auto& b) { return a.seconds > b.seconds; }));
  CHECK(s.operation_seconds <= s.wall_seconds);
  CHECK(s.engine_seconds == doctest::Approx(s.operation_seconds));
  CHECK(bench::summarize_profile(p, bounds(), 1.0).findings.empty());
  CHECK(bench::profile_notes(s).find("Exp") != std::string::npos);

  const auto rows = json::parse(bench::profile_table(s).render(report::TableFormat::kJson));
  const auto shown = std::find_if(rows.begin(), rows.end(), [](const auto& r) { return r["operation"] == "Exp"; });
  REQUIRE(shown != rows.end());
  CHECK((*shown)["calls"] == 1);  // of one evaluation
  CHECK((*shown)["by"] == "MLX");
  double share = 0;
  for (const auto& r : rows) share += r["share"].get<double>();
  CHECK(share == doctest::Approx(1));
}

TEST_CASE("the trace is JSON whose operations do not overlap and lie inside their evaluation") {
  const ops::Profiler p;
  run(2);
  const auto trace = json::parse(bench::chrome_trace(p, "aspis \"quoted\" \x80"));
  double end = 0, operations = 0, evaluations = 0;
  std::vector<std::pair<double, double>> spans;
  for (const auto& e : trace["traceEvents"]) {
    if (e["ph"] != "X") continue;
    if (e["tid"] == 3) {
      spans.emplace_back(e["ts"], e["ts"].get<double>() + e["dur"].get<double>());
      evaluations++;
    }
  }
  for (const auto& e : trace["traceEvents"]) {
    if (e["ph"] != "X" || e["tid"] != 1) continue;
    const double start = e["ts"], stop = start + e["dur"].get<double>();
    CHECK(start >= end - 1e-3);
    end = stop;
    CHECK(std::any_of(spans.begin(), spans.end(),
                      [&](const auto& s) { return s.first <= start && stop <= s.second + 1e-3; }));
    CHECK(e["args"]["shapes"].get<std::string>().find("->") != std::string::npos);
    CHECK(e["name"] != "Transpose");
    operations++;
  }
  CHECK(evaluations == 2);
  CHECK(operations >= 2 * 3);
}

TEST_CASE("an optimizer's step is one operation; handing its results over moves nothing") {
  bench::Subject s = bench::block_registry()[0].make();
  train::Optimizer optimizer(*s.module, {});
  std::vector<mx::array> gradients;
  for (const auto& [name, value] : s.module->parameters()) gradients.push_back(mx::ones(value.shape()));
  mx::eval(gradients);
  const ops::Profiler p;
  optimizer.update(gradients, mx::array(0.0f), 1e-3);
  ops::evaluate(optimizer.pending());
  const auto summary = bench::summarize_profile(p, bounds());
  CHECK(row_of(summary, "adamw").calls == 1);
  CHECK(row_of(summary, "adamw").bytes > 0);
  CHECK(row_of(summary, "take_updated").calls == static_cast<int64_t>(3 * gradients.size()));
  CHECK(row_of(summary, "take_updated").bytes == 0);
}

TEST_CASE("a profile of nothing says so") {
  const ops::Profiler p;
  const auto s = bench::summarize_profile(p, bounds());
  CHECK(s.rows.empty());
  CHECK(bench::profile_notes(s).find("warm-up") != std::string::npos);
  CHECK(json::parse(bench::chrome_trace(p, "none")).contains("traceEvents"));
}
