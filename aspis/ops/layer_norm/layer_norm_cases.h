#pragma once

#include "aspis/ops/harness/harness.h"

namespace aspis {

harness::OpEntry layer_norm_entry();
harness::OpEntry layer_norm_channels_first_entry();

}  // namespace aspis
