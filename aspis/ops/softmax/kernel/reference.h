#pragma once

#include <algorithm>
#include <cmath>

#include "aspis/ops/softmax/kernel/params.h"

namespace aspis::kernel {

/// The definition, one row at a time: the oracle of the tests. A row of -inf
/// gives NaN, since exp(-inf - -inf) is NaN.
template <typename T>
void softmax_reference(const SoftmaxParams<T>& p) {
  for (int64_t r = 0; r < p.rows; r++) {
    const T* x = p.x + r * p.x_stride;
    T* y = p.y + r * p.length;
    const T top = p.length > 0 ? *std::max_element(x, x + p.length) : T(0);
    T sum = 0;
    for (int64_t i = 0; i < p.length; i++) sum += y[i] = std::exp(x[i] - top);
    for (int64_t i = 0; i < p.length; i++) y[i] = p.logarithm ? x[i] - top - std::log(sum) : y[i] / sum;
  }
}

}  // namespace aspis::kernel
