#pragma once

#include "aspis/ops/harness/harness.h"

namespace aspis {

harness::OpEntry matmul_entry();

}  // namespace aspis
