#pragma once

#include <array>
#include <cstdint>

#include "aspis/ops/resample/kernel/axis_table.h"
#include "aspis/simd/bf16.h"

namespace aspis::kernel {

/// Largest value of every window of dense x {samples, in_0, in_1, in_2, channels}:
/// y {samples, out_0, out_1, out_2, channels}. Tables from `window_table`; a NaN in
/// a window is its largest value, as in PyTorch. S is float, double or Bf16.
template <typename S>
struct MaxPoolParams {
  int64_t samples = 0, channels = 0;
  std::array<const AxisTable*, 3> axes{};
  const S* x = nullptr;
  S* y = nullptr;
};

/// dx: dy goes to the first of the largest values of its window (to the last NaN).
template <typename S>
struct MaxPoolVjpParams {
  int64_t samples = 0, channels = 0;
  std::array<const AxisTable*, 3> axes{};
  const S *x = nullptr, *dy = nullptr;
  S* dx = nullptr;
  Arithmetic<S>* scratch = nullptr;  ///< one value for each of dy
};

}  // namespace aspis::kernel
