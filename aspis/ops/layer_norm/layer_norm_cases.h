#pragma once

#include "aspis/ops/harness/harness.h"

namespace aspis {

harness::OpEntry layer_norm_entry();

}  // namespace aspis
