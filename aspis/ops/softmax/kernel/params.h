#pragma once

#include <cstdint>

#include "aspis/simd/bf16.h"

namespace aspis::kernel {

/// y = softmax(x), or its logarithm, along the rows of a {rows, length} matrix. Row
/// r of x starts at x + r * x_stride; y is dense and may be x if that is dense too.
/// S is float, double or Bf16.
template <typename S>
struct SoftmaxParams {
  int64_t rows = 0, length = 0;
  const S* x = nullptr;
  int64_t x_stride = 0;
  S* y = nullptr;
  bool logarithm = false;
};

/// dx = y (dy - sum(dy y)) with the softmax y, or dy - exp(y) sum(dy) with its
/// logarithm y; dx is dense.
template <typename S>
struct SoftmaxVjpParams {
  int64_t rows = 0, length = 0;
  const S *y = nullptr, *dy = nullptr;
  int64_t y_stride = 0, dy_stride = 0;
  S* dx = nullptr;
  bool logarithm = false;
  const S* x = nullptr;  ///< Bf16 softmax of rows up to 4,096: y again with all digits, or null
  int64_t x_stride = 0;
};

}  // namespace aspis::kernel
