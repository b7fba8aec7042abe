#pragma once

#include <cmath>

#include "aspis/ops/rms_norm/kernel/params.h"

namespace aspis::kernel {

/// The definition, one row at a time: the oracle of the tests.
template <typename T>
void rms_norm_reference(const RmsNormParams<T>& p) {
  for (int64_t r = 0; r < p.rows; r++) {
    const auto h = [&](int64_t i) {
      return p.x[r * p.x_stride + i] + (p.residual ? p.residual[r * p.residual_stride + i] : T(0));
    };
    T squares = 0;
    for (int64_t i = 0; i < p.length; i++) squares += h(i) * h(i);
    const T scale = 1 / std::sqrt(squares / static_cast<T>(p.length) + static_cast<T>(p.eps));
    for (int64_t i = 0; i < p.length; i++) {
      if (p.sum) p.sum[r * p.length + i] = h(i);
      p.y[r * p.length + i] = h(i) * scale * (p.weight ? p.weight[i] : T(1));
    }
  }
}

}  // namespace aspis::kernel
