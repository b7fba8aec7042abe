#pragma once

#include <cstdint>

#include "aspis/simd/bf16.h"

namespace aspis::kernel {

/// y = x sigmoid(x) over n contiguous values. `x` and `y` may be the same.
template <typename T>
struct SiluParams {
  int64_t n = 0;
  const T* x = nullptr;
  T* y = nullptr;
};

/// dx = dy sigmoid(x) (1 + x (1 - sigmoid(x))).
template <typename T>
struct SiluVjpParams {
  int64_t n = 0;
  const T *x = nullptr, *dy = nullptr;
  T* dx = nullptr;
};

}  // namespace aspis::kernel
