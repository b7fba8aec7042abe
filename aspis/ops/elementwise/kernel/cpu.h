#pragma once

#include "aspis/ops/elementwise/kernel/params.h"

namespace aspis::kernel {

/// All run on the team, in blocks of a fixed number of values. S is float, double
/// or Bf16.
template <typename S>
void pointwise(const PointwiseParams<S>& p);
template <typename S>
void pointwise_vjp(const PointwiseVjpParams<S>& p);
template <typename S>
void combine(const CombineParams<S>& p);
template <typename S>
void dropout(const DropoutParams<S>& p);

void cast(const CastParams<float, Bf16>& p);
void cast(const CastParams<Bf16, float>& p);

}  // namespace aspis::kernel
