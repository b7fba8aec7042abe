#pragma once

#include <cstdint>

#include "aspis/simd/bf16.h"

namespace aspis::kernel {

/// Layer norm, or without `center` RMS norm, of the rows of a {rows, length}
/// matrix, after an optional addition:
///
///     h = x + residual                  (h = x without residual)
///     d = h - mean(h)                   (d = h without center)
///     y = d / sqrt(mean(d^2) + eps) * weight + bias
///
/// Row r of an input starts at its pointer + r * its stride; y and sum are dense.
/// S is float, double or Bf16; weight and bias have the arithmetic type.
template <typename S>
struct RowNormParams {
  using T = Arithmetic<S>;
  bool center = true;
  int64_t rows = 0, length = 0;
  double eps = 0;
  const S* x = nullptr;
  int64_t x_stride = 0;
  const S* residual = nullptr;  ///< or null
  int64_t residual_stride = 0;
  const T* weight = nullptr;  ///< {length}, or null for ones
  const T* bias = nullptr;    ///< {length}, or null for zeros
  S* y = nullptr;
  S* sum = nullptr;                     ///< receives h; needed with a residual, else null
  T *mean = nullptr, *scale = nullptr;  ///< {rows}: mean(h) (0 without center) and 1 / root, for the gradient
};

/// Gradients for dy and, with a residual, for dsum, the cotangent of h:
///
///     dx = r (g - mean(g) - d r^2 mean(g d)) + dsum,  g = dy weight,  r = 1 / sqrt(mean(d^2) + eps)
///     dweight = sum over rows of dy d r,  dbias = sum over rows of dy
///
/// without mean(g) where nothing is centred. dx is the gradient of both x and residual.
template <typename S>
struct RowNormVjpParams {
  using T = Arithmetic<S>;
  bool center = true;
  int64_t rows = 0, length = 0;
  const S *h = nullptr, *dy = nullptr;
  int64_t h_stride = 0, dy_stride = 0;
  const S* dsum = nullptr;  ///< or null
  int64_t dsum_stride = 0;
  const T *mean = nullptr, *scale = nullptr;  ///< {rows}, from the forward pass
  const T* weight = nullptr;                  ///< or null
  S* dx = nullptr;                            ///< dense
  T* dweight = nullptr;                       ///< {length}, or null
  T* dbias = nullptr;                         ///< {length}, or null
  T* dweight_scratch = nullptr;               ///< row_norm_vjp_scratch values, with dweight
  T* dbias_scratch = nullptr;                 ///< as many, with dbias
};

/// The same norms over the middle axis of dense {samples, length, positions}
/// arrays: channels first, as PyTorch keeps images. x and y have that shape.
template <typename S>
struct ColumnNormParams {
  using T = Arithmetic<S>;
  bool center = true;
  int64_t samples = 0, length = 0, positions = 0;
  double eps = 0;
  const S* x = nullptr;
  const T* weight = nullptr;
  const T* bias = nullptr;
  S* y = nullptr;
  T *mean = nullptr, *scale = nullptr;  ///< {samples, positions}
};
template <typename S>
struct ColumnNormVjpParams {
  using T = Arithmetic<S>;
  bool center = true;
  int64_t samples = 0, length = 0, positions = 0;
  const S *x = nullptr, *dy = nullptr;
  const T *mean = nullptr, *scale = nullptr;  ///< {samples, positions}, from the forward pass
  const T* weight = nullptr;
  S* dx = nullptr;
  T* dweight = nullptr;          ///< {length}, or null
  T* dbias = nullptr;            ///< {length}, or null
  T* dweight_scratch = nullptr;  ///< column_norm_vjp_scratch values, with dweight
  T* dbias_scratch = nullptr;    ///< as many, with dbias
};

}  // namespace aspis::kernel
