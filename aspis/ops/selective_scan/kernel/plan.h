#pragma once

#include <cstdint>
#include <vector>

#include "aspis/ops/selective_scan/kernel/params.h"

namespace aspis::kernel {

/// Consecutive steps of one sequence, done in one go.
struct ScanRun {
  int64_t row = 0;                ///< of the rows of tokens
  int64_t origin = 0, span = 0;   ///< the tokens of its sequence in the row
  int64_t first = 0, length = 0;  ///< the steps of the sequence that it does
  int64_t slot = 0;               ///< number of its first checkpoint
  int64_t initial = -1;           ///< the initial state that it starts from; -1: zero
  int64_t last = -1;              ///< the last state that it ends in; -1: none
  bool padding = false;           ///< outputs and gradients are 0, there is no state

  int64_t segments() const { return (length + kScanSegment - 1) / kScanSegment; }
};

/// How the tokens are cut into runs, and the runs into parts that are done in
/// parallel, each for every unit of channels. It depends on sizes and sequences
/// alone.
struct ScanPlan {
  std::vector<ScanRun> runs;
  std::vector<int64_t> parts;  ///< first run of each part, and behind them the number of runs
  int64_t slots = 0;           ///< checkpoints
  int64_t states = 0;          ///< initial and last states: rows, or sequences with cu_seqlens
  /// Some states are neither started from nor ended in: they are zeros.
  bool partial = false;
  /// Each run starts from the end of the one before it in its row. Runs are done
  /// in parallel three times over: from zero, along the chain, and from the right state.
  bool chained = false;

  int64_t part_count() const { return static_cast<int64_t>(parts.size()) - 1; }
  int64_t checkpoint_size(const ScanShape& s) const { return slots * s.panels() * s.panel_size(); }
};

/// Every row is a sequence, and a part.
ScanPlan dense_plan(const ScanShape& shape);

/// Every row is a sequence, cut into `chunks` runs that are parts of their own:
/// for few channels and many tokens.
ScanPlan chained_plan(const ScanShape& shape, int64_t chunks);

/// The panels of a task (ScanShape::unit) that keep `cores` cores busy where the tasks
/// are few: smaller ones cost more for each panel.
int64_t scan_unit(const ScanShape& shape, int64_t cores);

/// The chunks that `chained_plan` should make on a machine with `cores` cores; 1
/// means that `dense_plan` keeps them all busy or that the rows are short.
int64_t scan_chunks(const ScanShape& shape, int64_t cores);

/// Packed sequences by their bounds or their ids, see ops/common/sequences.h.
ScanPlan packed_plan(const std::vector<int32_t>& bounds);
ScanPlan packed_plan(const ScanShape& shape, const int32_t* ids, bool reverse);

/// The token that step s of a run's sequence visits.
template <typename T>
int64_t scan_token(const ScanParams<T>& p, const ScanRun& run, int64_t s) {
  const int64_t r = p.reverse ? run.origin + run.span - 1 - s : run.origin + s;
  return p.order ? p.order[r] : r;
}

}  // namespace aspis::kernel
