#pragma once

#include "aspis/ops/softmax/kernel/params.h"

namespace aspis::kernel {

/// S is float, double or Bf16. Runs on the team, split into whole rows, or into
/// pieces of rows where a row is longer than 65,536. As PyTorch, a row with a
/// NaN or +inf, and a row of -inf only, gives NaN throughout.
template <typename S>
void softmax(const SoftmaxParams<S>& p);
template <typename S>
void softmax_vjp(const SoftmaxVjpParams<S>& p);

}  // namespace aspis::kernel
