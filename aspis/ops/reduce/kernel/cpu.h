#pragma once

#include "aspis/ops/reduce/kernel/params.h"

namespace aspis::kernel {

/// Runs on the team, in blocks of a fixed number of values whose sums are put
/// together as a fixed tree. S = O, or one of them is Bf16 and the other float.
template <typename S, typename O>
void sum(const SumParams<S, O>& p);

/// Values of the arithmetic type that `sum` needs.
int64_t sum_scratch(int64_t outer, int64_t reduced, int64_t inner);

}  // namespace aspis::kernel
