#pragma once

#include <array>
#include <cstdint>

#include "aspis/ops/resample/kernel/axis_table.h"
#include "aspis/simd/bf16.h"

namespace aspis::kernel {

/// y {samples, out_0, out_1, out_2, channels} from dense x {samples, in_0, in_1,
/// in_2, channels}: a linear map along each of three axes. S is float, double or
/// Bf16; sums are kept in the arithmetic type.
template <typename S>
struct ResampleParams {
  int64_t samples = 0, channels = 0;
  std::array<const AxisTable*, 3> axes{};
  const S* x = nullptr;
  S* y = nullptr;
};

}  // namespace aspis::kernel
