#include "aspis/bench/profile_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "aspis/report/text.h"

namespace aspis::bench {

ProfileSummary summarize_profile(const ops::Profiler& profiler, const harness::MachineBounds& bounds,
                                 double finding_share) {
  ProfileSummary s;
  std::map<std::string, ProfileRow> rows;
  for (const auto& e : profiler.events()) {
    s.operation_seconds += e.seconds;
    if (e.engine) s.engine_seconds += e.seconds;
    ProfileRow& row = rows[e.name];
    row.name = e.name;
    row.engine = e.engine;
    row.calls++;
    row.seconds += e.seconds;
    const harness::Cost cost{2 * e.work.macs, e.work.exps, static_cast<double>(e.bytes)};
    row.bytes += cost.bytes;
    row.flops += cost.flops;
    row.exps += cost.exps;
    row.bound_seconds += harness::bound_seconds(cost, bounds);
  }
  s.evaluations = static_cast<int>(profiler.spans().size());
  for (const auto& span : profiler.spans()) s.wall_seconds += span.seconds;
  for (auto& [name, row] : rows) s.rows.push_back(row);
  std::sort(s.rows.begin(), s.rows.end(),
            [](const ProfileRow& a, const ProfileRow& b) { return a.seconds > b.seconds; });
  for (const auto& row : s.rows) {
    if (row.engine && row.seconds > finding_share * s.wall_seconds) s.findings.push_back(row.name);
  }
  return s;
}

report::Table profile_table(const ProfileSummary& s) {
  using report::Cell;
  report::Table table({{"operation", "operation"},
                       {"by", "by"},
                       {"calls", "calls", true},
                       {"ms", "ms", true},
                       {"share", "share", true},
                       {"bytes", "bytes", true},
                       {"flops", "flops", true},
                       {"exps", "exps", true},
                       {"bound_ms", "bound ms", true},
                       {"bound_share", "of bound", true}});
  const double n = std::max(1, s.evaluations);
  const auto percent = [](double v) { return fmt::format("{:.1f} %", 100 * v); };
  const auto count = [&](double v) { return v > 0 ? Cell(v / n, report::format_si(v / n)) : Cell(); };
  for (const auto& r : s.rows) {
    const double share = s.wall_seconds > 0 ? r.seconds / s.wall_seconds : 0;
    // Above 1 for what stays in the caches: the bound on bytes is that of main memory.
    const double of_bound = r.seconds > 0 ? r.bound_seconds / r.seconds : 0;
    const bool bounded = r.bound_seconds > 0;
    table.add_row(
        {r.name, r.engine ? "MLX" : "Aspis",
         Cell(static_cast<double>(r.calls) / n, fmt::format("{:.4g}", static_cast<double>(r.calls) / n)),
         Cell(1e3 * r.seconds / n, fmt::format("{:.3f}", 1e3 * r.seconds / n)), Cell(share, percent(share)),
         count(r.bytes), count(r.flops), count(r.exps),
         bounded ? Cell(1e3 * r.bound_seconds / n, fmt::format("{:.3f}", 1e3 * r.bound_seconds / n)) : Cell(),
         bounded ? Cell(of_bound, percent(of_bound)) : Cell()});
  }
  const double between = std::max(0.0, s.wall_seconds - s.operation_seconds);
  const double share = s.wall_seconds > 0 ? between / s.wall_seconds : 0;
  table.add_rule();
  table.add_row({"(between operations)", "", Cell(),
                 Cell(1e3 * between / n, fmt::format("{:.3f}", 1e3 * between / n)), Cell(share, percent(share)),
                 Cell(), Cell(), Cell(), Cell(), Cell()});
  return table;
}

std::string profile_notes(const ProfileSummary& s) {
  if (s.evaluations == 0) return "no evaluation was recorded: the command ended before its warm-up did\n";
  const double n = s.evaluations;
  std::string text =
      fmt::format("{} evaluations of {:.2f} ms; figures are of one. MLX operations hold {:.1f} %", s.evaluations,
                  1e3 * s.wall_seconds / n, 100 * s.engine_seconds / std::max(1e-12, s.wall_seconds));
  if (s.findings.empty()) return text + ", none more than 1 %\n";
  return text + fmt::format(", above 1 %: {}\n", fmt::join(s.findings, ", "));
}

std::string chrome_trace(const ops::Profiler& profiler, const std::string& title) {
  using Json = nlohmann::ordered_json;
  Json events = Json::array();
  const auto name_of = [&](int tid, const char* name) {
    events.push_back({{"ph", "M"}, {"pid", 1}, {"tid", tid}, {"name", "thread_name"}, {"args", {{"name", name}}}});
  };
  events.push_back({{"ph", "M"}, {"pid", 1}, {"name", "process_name"}, {"args", {{"name", title}}}});
  name_of(1, "operations");
  name_of(2, "host: allocation and hand-over");
  name_of(3, "evaluations");
  const auto micro = [](double seconds) { return 1e6 * seconds; };
  for (size_t i = 0; i < profiler.spans().size(); i++) {
    const auto& span = profiler.spans()[i];
    events.push_back({{"ph", "X"},
                      {"pid", 1},
                      {"tid", 3},
                      {"name", fmt::format("evaluation {}", i + 1)},
                      {"ts", micro(span.start)},
                      {"dur", micro(span.seconds)}});
  }
  for (const auto& e : profiler.events()) {
    if (!e.view) {
      Json args{{"shapes", e.shapes}, {"bytes", e.bytes}};
      if (e.work.macs > 0) args["flops"] = 2 * e.work.macs;
      if (e.work.exps > 0) args["exps"] = e.work.exps;
      events.push_back({{"ph", "X"},
                        {"pid", 1},
                        {"tid", 1},
                        {"cat", e.engine ? "mlx" : "aspis"},
                        {"name", e.name},
                        {"ts", micro(e.start)},
                        {"dur", micro(e.seconds)},
                        {"args", args}});
    }
    events.push_back({{"ph", "X"},
                      {"pid", 1},
                      {"tid", 2},
                      {"cat", "host"},
                      {"name", e.name},
                      {"ts", micro(e.host_start)},
                      {"dur", micro(e.host_seconds)}});
    events.push_back({{"ph", "C"},
                      {"pid", 1},
                      {"name", "engine memory"},
                      {"ts", micro(e.host_start)},
                      {"args", {{"bytes", e.active_bytes}}}});
  }
  const Json trace{{"traceEvents", events}, {"displayTimeUnit", "ms"}};
  return trace.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace aspis::bench
