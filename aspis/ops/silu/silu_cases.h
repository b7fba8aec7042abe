#pragma once

#include "aspis/ops/harness/harness.h"

namespace aspis {

harness::OpEntry silu_entry();

}  // namespace aspis
