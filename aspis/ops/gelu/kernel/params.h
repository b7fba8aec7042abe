#pragma once

#include <cstdint>

#include "aspis/simd/bf16.h"

namespace aspis::kernel {

/// y = x Phi(x), or its tanh approximation, over n contiguous values. `x` and
/// `y` may be the same.
template <typename T>
struct GeluParams {
  int64_t n = 0;
  bool tanh_approximation = false;
  const T* x = nullptr;
  T* y = nullptr;
};

/// dx = dy gelu'(x). `dx` may be `x` or `dy`.
template <typename T>
struct GeluVjpParams {
  int64_t n = 0;
  bool tanh_approximation = false;
  const T *x = nullptr, *dy = nullptr;
  T* dx = nullptr;
};

}  // namespace aspis::kernel
