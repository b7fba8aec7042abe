#pragma once

#include "aspis/ops/gelu/kernel/params.h"

namespace aspis::kernel {

/// T is float, double or Bf16 (computed in float). Runs on the team, in blocks of a fixed number of
/// elements.
template <typename T>
void gelu(const GeluParams<T>& p);
template <typename T>
void gelu_vjp(const GeluVjpParams<T>& p);

}  // namespace aspis::kernel
