#pragma once

#include "aspis/ops/rms_norm/kernel/params.h"

namespace aspis::kernel {

/// T is float or double. Runs on the team, in blocks of rows whose size depends
/// on the shape only.
template <typename T>
void rms_norm(const RmsNormParams<T>& p);
template <typename T>
void rms_norm_vjp(const RmsNormVjpParams<T>& p);

/// Values of T that rms_norm_vjp needs as scratch when there is a weight.
int64_t rms_norm_vjp_scratch(int64_t rows, int64_t length);

}  // namespace aspis::kernel
