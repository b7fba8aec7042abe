#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "aspis/ops/cross_entropy/kernel/params.h"

namespace aspis::kernel {

/// The definition, one class at a time: the oracle of the tests.
template <typename T>
void cross_entropy_reference(const CrossEntropyParams<T>& p) {
  T total = 0;
  int64_t counted = 0;
  for (int64_t r = 0; r < p.rows; r++) {
    const T* x = p.x + r * p.x_stride;
    const int64_t label = p.labels ? p.labels[r] : -1;
    T loss = 0;
    if (!p.labels || label != p.ignore_index) {
      counted++;
      const T top = *std::max_element(x, x + p.classes);
      T sum = 0;
      for (int64_t c = 0; c < p.classes; c++) sum += std::exp(x[c] - top);
      for (int64_t c = 0; c < p.classes; c++) {
        const T plain = p.labels ? T(c == label) : p.t[r * p.t_stride + c];
        const T q = plain * T(1 - p.smoothing) + T(p.smoothing) / static_cast<T>(p.classes);
        if (q != 0) loss -= q * (x[c] - top - std::log(sum));
      }
      if (p.labels && (label < 0 || label >= p.classes)) loss = std::numeric_limits<T>::quiet_NaN();
    }
    if (!p.reduce) p.loss[r] = loss;
    total += loss;
  }
  if (p.reduce) *p.loss = p.mean ? total / static_cast<T>(counted) : total;
}

}  // namespace aspis::kernel
