#pragma once

#include <cstdint>

#include "aspis/simd/bf16.h"

namespace aspis::kernel {

/// y[a, k] = scale * sum over r of x[a, r, k] * factor[a, r, k], all dense; the
/// factor is 1 without one. S and O are float, double or Bf16 with one arithmetic
/// type.
template <typename S, typename O = S>
struct SumParams {
  using T = Arithmetic<S>;
  int64_t outer = 0, reduced = 0, inner = 0;
  double scale = 1;
  const S* x = nullptr;
  const S* factor = nullptr;  ///< of x's shape, or null
  O* y = nullptr;
  T* scratch = nullptr;  ///< sum_scratch values
};

}  // namespace aspis::kernel
