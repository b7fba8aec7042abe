#pragma once

#include "aspis/ops/add_n/kernel/params.h"

namespace aspis::kernel {

/// The definition, one element at a time: the oracle of the tests.
template <typename T>
void add_n_reference(const AddNParams<T>& p) {
  for (int64_t i = 0; i < p.n; i++) {
    T sum = 0;
    for (const T* x : p.xs) sum += x[i];
    p.y[i] = sum;
  }
}

}  // namespace aspis::kernel
