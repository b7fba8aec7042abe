#pragma once

#include "aspis/ops/gated_norm/kernel/params.h"

namespace aspis::kernel {

/// T is float or double. Both run on the team; bit-equal for any number of
/// threads, and a row of y and dx does not depend on the other rows.
template <typename T>
void gated_norm(const GatedNormParams<T>& p);
template <typename T>
void gated_norm_vjp(const GatedNormVjpParams<T>& q);

int64_t gated_norm_vjp_workspace(int64_t rows, int64_t width);

}  // namespace aspis::kernel
