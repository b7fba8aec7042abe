#pragma once

#include "aspis/ops/adamw/kernel/params.h"

namespace aspis::kernel {

/// Runs on the team in blocks of 32,768 elements over all tensors.
template <typename T>
void adamw(const AdamWParams<T>& a);

}  // namespace aspis::kernel
