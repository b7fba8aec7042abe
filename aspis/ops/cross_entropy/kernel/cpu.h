#pragma once

#include "aspis/ops/cross_entropy/kernel/params.h"

namespace aspis::kernel {

/// T is float or double. Both run on the team, a block of rows per task; the
/// reduction adds the rows in order.
template <typename T>
void cross_entropy(const CrossEntropyParams<T>& p);
template <typename T>
void cross_entropy_vjp(const CrossEntropyVjpParams<T>& p);

}  // namespace aspis::kernel
