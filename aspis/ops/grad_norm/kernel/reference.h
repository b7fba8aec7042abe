#pragma once

#include <cmath>

#include "aspis/ops/grad_norm/kernel/params.h"

namespace aspis::kernel {

/// The definition, one element after the other in double.
template <typename T>
double global_norm_reference(const GlobalNormParams<T>& p) {
  double sum = 0;
  for (const auto& a : p.arrays) {
    for (int64_t i = 0; i < a.n; i++) sum += static_cast<double>(a.data[i]) * static_cast<double>(a.data[i]);
  }
  return std::sqrt(sum);
}

}  // namespace aspis::kernel
