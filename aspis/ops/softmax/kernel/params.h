#pragma once

#include <cstdint>

namespace aspis::kernel {

/// y = softmax(x) along the rows of a {rows, length} matrix. Row r of x starts
/// at x + r * x_stride; y is dense and may be x if that is dense too.
template <typename T>
struct SoftmaxParams {
  int64_t rows = 0, length = 0;
  const T* x = nullptr;
  int64_t x_stride = 0;
  T* y = nullptr;
};

/// dx = y (dy - sum(dy y)) with the softmax y; dx is dense.
template <typename T>
struct SoftmaxVjpParams {
  int64_t rows = 0, length = 0;
  const T *y = nullptr, *dy = nullptr;
  int64_t y_stride = 0, dy_stride = 0;
  T* dx = nullptr;
};

}  // namespace aspis::kernel
