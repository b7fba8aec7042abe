#pragma once

#include "aspis/ops/adamw/kernel/params.h"

namespace aspis::kernel {

/// What multiplies the gradients of a step, from the scale and the norm:
/// scale * min(1, max_norm / (norm * scale + 1e-6)). NaN if the norm or the loss
/// is not finite: then the step must not happen. For every optimizer.
template <typename T>
double gradient_factor(const UpdateParams<T>& p);

/// One AdamW step over all arrays on the team, one pass over memory; in and out
/// are {parameter, m, v}. If `gradient_factor` is NaN, the outputs are the
/// inputs, bit for bit. T is float or double.
template <typename T>
void adamw(const UpdateParams<T>& p, const AdamWConstants& constants);

}  // namespace aspis::kernel
