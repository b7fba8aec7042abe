#pragma once

#include "aspis/ops/harness/harness.h"

namespace aspis {

harness::OpEntry pointwise_entry();
harness::OpEntry broadcast_entry();
harness::OpEntry dropout_entry();

}  // namespace aspis
