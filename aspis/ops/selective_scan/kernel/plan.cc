#include "aspis/ops/selective_scan/kernel/plan.h"

#include <algorithm>

#include "aspis/ops/common/sequences.h"

namespace aspis::kernel {
namespace {

void add(ScanPlan* plan, ScanRun run) {
  run.slot = plan->slots;
  if (!run.padding) plan->slots += run.segments();
  plan->runs.push_back(run);
}

ScanRun run_of(const Sequence& q) {
  ScanRun run;
  run.row = q.row;
  run.origin = q.first;
  run.span = run.length = q.length;
  run.initial = q.initial, run.last = q.last;
  run.padding = q.padding;
  return run;
}

void end_part(ScanPlan* plan) { plan->parts.push_back(static_cast<int64_t>(plan->runs.size())); }

}  // namespace

ScanPlan dense_plan(const ScanShape& s) {
  ScanPlan plan;
  plan.states = s.batch;
  plan.parts = {0};
  for (const Sequence& q : row_sequences(s.batch, s.length)) {
    add(&plan, run_of(q));
    end_part(&plan);
  }
  return plan;
}

ScanPlan chained_plan(const ScanShape& s, int64_t chunks) {
  ScanPlan plan;
  plan.states = s.batch;
  plan.chained = true;
  plan.parts = {0};
  // Whole segments, so that checkpoints lie as they do without chunks.
  const int64_t segments = s.segments();
  for (int64_t b = 0; b < s.batch; b++) {
    for (int64_t c = 0; c < chunks; c++) {
      const int64_t first = c * segments / chunks * kScanSegment;
      const int64_t last = std::min(s.length, (c + 1) * segments / chunks * kScanSegment);
      ScanRun run;
      run.row = b;
      run.span = s.length;
      run.first = first, run.length = last - first;
      if (c == 0) run.initial = b;
      if (c == chunks - 1) run.last = b;
      add(&plan, run);
      end_part(&plan);
    }
  }
  return plan;
}

int64_t scan_unit(const ScanShape& s, int64_t cores) {
  // What a panel costs in a task of so many of them, over its cost in one of four.
  constexpr double kCost[] = {0, 1.4, 1.15, 1.05};
  const int64_t usual = scan_unit_panels(s), panels = s.group_panels();
  const auto tasks = [&](int64_t unit) { return s.batch * s.groups * ((panels + unit - 1) / unit); };
  if (tasks(usual) >= 2 * cores) return usual;
  const auto span = [&](int64_t unit) {
    const int64_t rounds = (tasks(unit) + cores - 1) / cores;
    return static_cast<double>(rounds * std::min(unit, panels)) * (unit < 4 ? kCost[unit] : 1);
  };
  int64_t best = usual;
  double least = 0.95 * span(usual);
  for (int64_t unit = 3; unit >= 1; unit--) {
    if (unit < usual && span(unit) < least) best = unit, least = span(unit);
  }
  return best;
}

int64_t scan_chunks(const ScanShape& s, int64_t cores) {
  constexpr int64_t kShortest = 1024;  // tokens that pay for starting a task and passing a state on
  const int64_t tasks = s.batch * scan_units(s);
  // The work nearly doubles, so that it takes more than three cores to a task to gain.
  if (tasks == 0 || 3 * tasks >= cores) return 1;
  return std::clamp<int64_t>((2 * cores + tasks - 1) / tasks, 1, std::max<int64_t>(1, s.length / kShortest));
}

ScanPlan packed_plan(const std::vector<int32_t>& bounds) {
  ScanPlan plan;
  plan.states = static_cast<int64_t>(bounds.size()) - 1;
  plan.parts = {0};
  for (const Sequence& q : bounded_sequences(bounds)) add(&plan, run_of(q));
  end_part(&plan);
  return plan;
}

ScanPlan packed_plan(const ScanShape& s, const int32_t* ids, bool reverse) {
  ScanPlan plan;
  plan.states = s.batch;
  plan.partial = true;
  plan.parts = {0};
  int64_t row = 0;
  for (const Sequence& q : id_sequences(s.batch, s.length, ids, reverse)) {
    if (q.row != row) end_part(&plan);
    row = q.row;
    add(&plan, run_of(q));
  }
  end_part(&plan);
  return plan;
}

}  // namespace aspis::kernel
