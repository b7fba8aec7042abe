#pragma once

#include "aspis/ops/concat/kernel/params.h"

namespace aspis::kernel {

/// Runs on the team, in pieces of a fixed number of bytes.
void concat(const ConcatParams& p);

}  // namespace aspis::kernel
