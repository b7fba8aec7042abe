#pragma once

#include "aspis/ops/harness/harness.h"

namespace aspis {

harness::OpEntry softmax_entry();
harness::OpEntry log_softmax_entry();

}  // namespace aspis
