#pragma once

#include "aspis/ops/harness/harness.h"

namespace aspis {

harness::OpEntry linear_entry();

}  // namespace aspis
