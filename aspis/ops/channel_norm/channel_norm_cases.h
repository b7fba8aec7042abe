#pragma once

#include "aspis/ops/harness/harness.h"

namespace aspis {

harness::OpEntry batch_norm_entry();
harness::OpEntry group_norm_entry();

}  // namespace aspis
