#pragma once

#include "aspis/ops/cross_entropy/kernel/params.h"

namespace aspis::kernel {

/// S is float, double or Bf16. Both run on the team, a block of rows per task; the
/// reduction adds the rows in order.
template <typename S>
void cross_entropy(const CrossEntropyParams<S>& p);
template <typename S>
void cross_entropy_vjp(const CrossEntropyVjpParams<S>& p);

}  // namespace aspis::kernel
