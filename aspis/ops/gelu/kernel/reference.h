#pragma once

#include <cmath>

#include "aspis/ops/gelu/kernel/params.h"

namespace aspis::kernel {

/// The definition, one element at a time: the oracle of the tests. The exact
/// form uses erfc so that the left tail does not cancel.
template <typename T>
void gelu_reference(const GeluParams<T>& p) {
  for (int64_t i = 0; i < p.n; i++) {
    const T x = p.x[i];
    if (p.tanh_approximation) {
      const T u = std::sqrt(T(2) / T(3.14159265358979323846)) * (x + T(0.044715) * x * x * x);
      p.y[i] = x / (1 + std::exp(-2 * u));  // (1 + tanh u) / 2 = 1 / (1 + e^(-2u))
    } else {
      p.y[i] = x * std::erfc(-x / std::sqrt(T(2))) / 2;
    }
  }
}

}  // namespace aspis::kernel
