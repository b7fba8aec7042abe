#pragma once

#include "aspis/ops/pool/kernel/params.h"

namespace aspis::kernel {

/// Runs on the team, in groups of lines whose number depends on the shape only.
template <typename S>
void max_pool(const MaxPoolParams<S>& p);
template <typename S>
void max_pool_vjp(const MaxPoolVjpParams<S>& p);

}  // namespace aspis::kernel
