#pragma once

#include <cmath>

#include "aspis/ops/silu/kernel/params.h"

namespace aspis::kernel {

/// The definition, one element at a time: the oracle of the tests.
template <typename T>
void silu_reference(const SiluParams<T>& p) {
  for (int64_t i = 0; i < p.n; i++) p.y[i] = p.x[i] / (1 + std::exp(-p.x[i]));
}

}  // namespace aspis::kernel
