#pragma once

#include "aspis/ops/resample/kernel/params.h"

namespace aspis::kernel {

/// Runs on the team, one task for some lines of the result, whose number depends
/// on the shape only.
template <typename S>
void resample(const ResampleParams<S>& p);

}  // namespace aspis::kernel
