#pragma once

#include "aspis/ops/grad_norm/kernel/params.h"

namespace aspis::kernel {

/// T is float or double. Runs on the team; squares are added in double, in
/// blocks of fixed size whose sums are added in order.
template <typename T>
void global_norm(const GlobalNormParams<T>& p);

}  // namespace aspis::kernel
