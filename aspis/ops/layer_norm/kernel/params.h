#pragma once

#include <cstdint>

namespace aspis::kernel {

/// Layer norm of the rows of a {rows, length} matrix, after an optional addition:
///
///     h = x + residual          (h = x without residual)
///     d = h - mean(h)
///     y = d / sqrt(mean(d^2) + eps) * weight + bias
///
/// Row r of an input starts at its pointer + r * its stride; y and sum are dense.
template <typename T>
struct LayerNormParams {
  int64_t rows = 0, length = 0;
  double eps = 0;
  const T* x = nullptr;
  int64_t x_stride = 0;
  const T* residual = nullptr;  ///< or null
  int64_t residual_stride = 0;
  const T* weight = nullptr;  ///< {length}, or null for ones
  const T* bias = nullptr;    ///< {length}, or null for zeros
  T* y = nullptr;
  T* sum = nullptr;  ///< receives h; needed with a residual, else null
};

/// Gradients for dy and, with a residual, for dsum, the cotangent of h:
///
///     dx = r (g - mean(g) - d r^2 mean(g d)) + dsum,  g = dy weight,  r = 1 / sqrt(mean(d^2) + eps)
///     dweight = sum over rows of dy d r,  dbias = sum over rows of dy
///
/// dx is the gradient of both x and residual.
template <typename T>
struct LayerNormVjpParams {
  int64_t rows = 0, length = 0;
  double eps = 0;
  const T *h = nullptr, *dy = nullptr;
  int64_t h_stride = 0, dy_stride = 0;
  const T* dsum = nullptr;  ///< or null
  int64_t dsum_stride = 0;
  const T* weight = nullptr;     ///< or null
  T* dx = nullptr;               ///< dense
  T* dweight = nullptr;          ///< {length}, or null
  T* dbias = nullptr;            ///< {length}, or null
  T* dweight_scratch = nullptr;  ///< layer_norm_vjp_scratch values, with dweight
  T* dbias_scratch = nullptr;    ///< as many, with dbias
};

}  // namespace aspis::kernel
