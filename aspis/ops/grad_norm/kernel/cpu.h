#pragma once

#include "aspis/ops/grad_norm/kernel/params.h"

namespace aspis::kernel {

/// The sum of squares in double, bit-equal for any number of threads.
template <typename T>
double sum_of_squares(const GradNormParams<T>& p);

}  // namespace aspis::kernel
