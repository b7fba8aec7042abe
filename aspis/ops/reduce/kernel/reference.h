#pragma once

#include "aspis/ops/reduce/kernel/params.h"

namespace aspis::kernel {

/// The definition: the oracle of the tests.
template <typename T>
void sum_reference(const SumParams<T>& p) {
  for (int64_t a = 0; a < p.outer; a++) {
    for (int64_t k = 0; k < p.inner; k++) {
      T sum = 0;
      for (int64_t r = 0; r < p.reduced; r++) {
        const int64_t at = (a * p.reduced + r) * p.inner + k;
        sum += p.x[at] * (p.factor ? p.factor[at] : T(1));
      }
      p.y[a * p.inner + k] = sum * static_cast<T>(p.scale);
    }
  }
}

}  // namespace aspis::kernel
