#pragma once

#include <cmath>
#include <cstdint>

#include "aspis/ops/gated_norm/kernel/params.h"

namespace aspis::kernel {

/// The definition, plainly.
template <typename T>
void gated_norm_reference(const GatedNormParams<T>& p) {
  for (int64_t r = 0; r < p.rows; r++) {
    for (int64_t first = 0; first < p.width; first += p.group) {
      const auto gate = [&](int64_t c) {
        const T z = p.z ? p.z[r * p.width + c] : T(0);
        return p.z ? z / (1 + std::exp(-z)) : T(1);
      };
      const auto v = [&](int64_t c) { return p.x[r * p.width + c] * (p.norm_first ? T(1) : gate(c)); };
      T mean = 0, squares = 0;
      for (int64_t c = first; c < first + p.group && p.center; c++) mean += v(c) / T(p.group);
      for (int64_t c = first; c < first + p.group; c++) squares += (v(c) - mean) * (v(c) - mean) / T(p.group);
      for (int64_t c = first; c < first + p.group; c++) {
        T n = (v(c) - mean) / std::sqrt(squares + T(p.eps));
        if (p.weight) n *= p.weight[c];
        if (p.bias) n += p.bias[c];
        p.y[r * p.width + c] = p.norm_first ? n * gate(c) : n;
      }
    }
  }
}

}  // namespace aspis::kernel
