#pragma once

#include "aspis/ops/harness/harness.h"

namespace aspis {

harness::OpEntry max_pool_entry();
harness::OpEntry avg_pool_entry();

}  // namespace aspis
