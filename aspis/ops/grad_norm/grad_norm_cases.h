#pragma once

#include "aspis/ops/harness/harness.h"

namespace aspis {

harness::OpEntry grad_norm_entry();

}  // namespace aspis
