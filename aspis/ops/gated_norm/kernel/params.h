#pragma once

#include <cstdint>

namespace aspis::kernel {

/// Norm of groups of `group` values of each row, with a gate before or after:
///
///     v = x silu(z)                       (gate first; v = x otherwise)
///     n = (v - m) rsqrt(mean((v - m)^2) + eps) weight + bias,  m = mean(v) if `center`, else 0
///     y = n silu(z)                       (norm first; y = n otherwise)
///
/// Everything dense {rows, width}, width a multiple of `group`.
template <typename T>
struct GatedNormParams {
  int64_t rows = 0, width = 0, group = 0;
  double eps = 0;
  bool center = false, norm_first = false;
  const T* x = nullptr;
  const T* z = nullptr;       ///< null: no gate
  const T* weight = nullptr;  ///< null or {width}
  const T* bias = nullptr;    ///< null or {width}
  T* y = nullptr;
};

/// Gradients for dy; each output is null exactly if its input is.
template <typename T>
struct GatedNormVjpParams {
  GatedNormParams<T> in;  ///< y is not used
  const T* dy = nullptr;
  T *dx = nullptr, *dz = nullptr, *dweight = nullptr, *dbias = nullptr;
  T* workspace = nullptr;  ///< gated_norm_vjp_workspace() values
};

}  // namespace aspis::kernel
