#pragma once

#include "aspis/ops/harness/harness.h"

namespace aspis {

harness::OpEntry rmsnorm_gated_entry();
harness::OpEntry layer_norm_gated_entry();

}  // namespace aspis
