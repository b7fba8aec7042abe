#pragma once

#include "aspis/ops/harness/harness.h"

namespace aspis {

harness::OpEntry causal_conv1d_entry();

}  // namespace aspis
