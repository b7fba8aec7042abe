#pragma once

#include <cstdint>

namespace aspis::kernel {

/// y = x W^T + b. x {rows, in} and W {out, in} may have gaps between rows; y
/// {rows, out} is dense. `bias` may be null.
template <typename T>
struct LinearParams {
  int64_t rows = 0, in = 0, out = 0;
  const T* x = nullptr;
  int64_t x_stride = 0;
  const T* weight = nullptr;
  int64_t weight_stride = 0;
  const T* bias = nullptr;
  T* y = nullptr;
  T* workspace = nullptr;  ///< linear_workspace() values
};

/// dx = dy W {rows, in}, dweight = dy^T x {out, in}, dbias = sum of dy {out},
/// all dense; a null output is not computed. dy, x and W may have gaps between rows.
template <typename T>
struct LinearVjpParams {
  int64_t rows = 0, in = 0, out = 0;
  const T *x = nullptr, *weight = nullptr, *dy = nullptr;
  int64_t x_stride = 0, weight_stride = 0, dy_stride = 0;
  T *dx = nullptr, *dweight = nullptr, *dbias = nullptr;
  T* workspace = nullptr;  ///< linear_vjp_workspace() values
};

}  // namespace aspis::kernel
