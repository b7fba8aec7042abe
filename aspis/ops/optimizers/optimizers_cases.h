#pragma once

#include "aspis/ops/harness/harness.h"

namespace aspis {

harness::OpEntry optimizers_entry();

}  // namespace aspis
