#pragma once

#include <cstdint>

namespace aspis::train {

/// Learning rate over a run: linear rise over the first `warmup` steps, then
/// half a cosine from `peak` down to `floor` at the last step (Loshchilov and
/// Hutter 2017, without restarts).
struct CosineSchedule {
  double peak = 1e-3;
  double floor = 0;
  int64_t warmup = 0;
  int64_t steps = 1;

  /// Rate of update `step`, counted from 0; constant after the last.
  double operator()(int64_t step) const;
};

}  // namespace aspis::train
