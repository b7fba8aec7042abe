#pragma once

#include "aspis/ops/harness/harness.h"

namespace aspis {

harness::OpEntry rms_norm_entry();

}  // namespace aspis
