#pragma once

#include <cmath>

#include "aspis/ops/grad_norm/kernel/params.h"

namespace aspis::kernel {

/// The definition, one element after the other in double.
template <typename T>
double global_norm_reference(const GlobalNormParams<T>& p) {
  double sum = 0;
  for (const auto& a : p.arrays) {
    for (int64_t i = 0; i < a.n; i++) {
      const double x = a.half ? static_cast<double>(to_float(a.half[i])) : static_cast<double>(a.data[i]);
      sum += x * x;
    }
  }
  return std::sqrt(sum);
}

}  // namespace aspis::kernel
