#pragma once

#include <cstdint>

#include "aspis/ops/linear/kernel/epilogue.h"

namespace aspis::kernel {

/// y = f(x W^T + b) + residual, stored as T: float, double or Bf16, which is
/// computed in float (W, also of float, is rounded first). x {rows, in}, W {out, in} and the residual may
/// have gaps between rows; y {rows, out} is dense, and `end.pre` as well.
/// `bias` may be null.
template <typename T, typename W = T>
struct LinearParams {
  int64_t rows = 0, in = 0, out = 0;
  const T* x = nullptr;
  int64_t x_stride = 0;
  const W* weight = nullptr;
  int64_t weight_stride = 0;
  const Arithmetic<T>* bias = nullptr;
  T* y = nullptr;
  Arithmetic<T>* workspace = nullptr;  ///< linear_workspace() values
  Epilogue<T> end = {};
};

/// dz = dy f'(z), dx = dz W {rows, in}, dweight = dz^T x {out, in}, dbias = sum
/// of dz {out}, all dense; a null output is not computed. dy, x and W may have
/// gaps between rows.
template <typename T, typename W = T>
struct LinearVjpParams {
  int64_t rows = 0, in = 0, out = 0;
  const T* x = nullptr;
  const W* weight = nullptr;
  const T* dy = nullptr;
  int64_t x_stride = 0, weight_stride = 0, dy_stride = 0;
  T* dx = nullptr;
  W* dweight = nullptr;
  Arithmetic<T>* dbias = nullptr;
  Arithmetic<T>* workspace = nullptr;  ///< linear_vjp_workspace() values
  Activation activation = Activation::kNone;
  const T* pre = nullptr;  ///< z {rows, out} if there is an activation (for kRelu f(z) will do)
  T* dz = nullptr;         ///< {rows, out}, written if there is an activation
};

}  // namespace aspis::kernel
