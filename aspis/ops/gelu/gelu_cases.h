#pragma once

#include "aspis/ops/harness/harness.h"

namespace aspis {

harness::OpEntry gelu_entry();

}  // namespace aspis
