#pragma once

#include "aspis/ops/softmax/kernel/params.h"

namespace aspis::kernel {

/// T is float or double. Runs on the team, split into whole rows, or into
/// pieces of rows where a row is longer than 65,536. As PyTorch, a row with a
/// NaN or +inf, and a row of -inf only, gives NaN throughout.
template <typename T>
void softmax(const SoftmaxParams<T>& p);
template <typename T>
void softmax_vjp(const SoftmaxVjpParams<T>& p);

}  // namespace aspis::kernel
