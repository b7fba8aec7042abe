#pragma once

#include "aspis/ops/pscan/kernel/params.h"

namespace aspis::kernel {

/// T is float or double. Both run on the team; which form is taken depends on
/// the shape alone, so results are bit-equal for any number of threads.
template <typename T>
void pscan(const PscanParams<T>& p);
template <typename T>
void pscan_vjp(const PscanVjpParams<T>& q);

}  // namespace aspis::kernel
