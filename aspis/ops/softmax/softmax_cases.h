#pragma once

#include "aspis/ops/harness/harness.h"

namespace aspis {

harness::OpEntry softmax_entry();

}  // namespace aspis
