#pragma once

#include <cmath>

#include "aspis/ops/row_norm/kernel/params.h"

namespace aspis::kernel {

/// The definition, one row at a time: the oracle of the tests.
template <typename T>
void row_norm_reference(const RowNormParams<T>& p) {
  const T n = static_cast<T>(p.length);
  for (int64_t r = 0; r < p.rows; r++) {
    const auto h = [&](int64_t i) {
      return p.x[r * p.x_stride + i] + (p.residual ? p.residual[r * p.residual_stride + i] : T(0));
    };
    T mean = 0, squares = 0;
    for (int64_t i = 0; p.center && i < p.length; i++) mean += h(i) / n;
    for (int64_t i = 0; i < p.length; i++) squares += (h(i) - mean) * (h(i) - mean);
    const T root = std::sqrt(squares / n + static_cast<T>(p.eps));
    if (p.mean) p.mean[r] = mean;
    if (p.scale) p.scale[r] = 1 / root;
    for (int64_t i = 0; i < p.length; i++) {
      if (p.sum) p.sum[r * p.length + i] = h(i);
      p.y[r * p.length + i] = (h(i) - mean) / root * (p.weight ? p.weight[i] : T(1)) + (p.bias ? p.bias[i] : T(0));
    }
  }
}

/// The gradients as the formulas in params.h state them; no scratch.
template <typename T>
void row_norm_vjp_reference(const RowNormVjpParams<T>& p) {
  const T n = static_cast<T>(p.length);
  for (int64_t i = 0; i < p.length; i++) {
    if (p.dweight) p.dweight[i] = 0;
    if (p.dbias) p.dbias[i] = 0;
  }
  for (int64_t r = 0; r < p.rows; r++) {
    const T *h = p.h + r * p.h_stride, *dy = p.dy + r * p.dy_stride;
    const auto g = [&](int64_t i) { return dy[i] * (p.weight ? p.weight[i] : T(1)); };
    const T mean = p.mean[r], scale = p.scale[r];
    T mean_g = 0, mean_gd = 0;
    for (int64_t i = 0; i < p.length; i++) {
      if (p.center) mean_g += g(i) / n;
      mean_gd += g(i) * (h[i] - mean) / n;
    }
    for (int64_t i = 0; i < p.length; i++) {
      const T d = h[i] - mean;
      p.dx[r * p.length + i] =
          scale * (g(i) - mean_g - d * scale * scale * mean_gd) + (p.dsum ? p.dsum[r * p.dsum_stride + i] : T(0));
      if (p.dweight) p.dweight[i] += dy[i] * d * scale;
      if (p.dbias) p.dbias[i] += dy[i];
    }
  }
}

}  // namespace aspis::kernel
