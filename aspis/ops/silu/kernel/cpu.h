#pragma once

#include "aspis/ops/silu/kernel/params.h"

namespace aspis::kernel {

/// T is float, double or Bf16 (computed in float). Runs on the team; work is split into blocks of a fixed
/// number of elements.
template <typename T>
void silu(const SiluParams<T>& p);
template <typename T>
void silu_vjp(const SiluVjpParams<T>& p);

}  // namespace aspis::kernel
