#pragma once

#include "aspis/ops/harness/harness.h"

namespace aspis {

harness::OpEntry cross_entropy_entry();

}  // namespace aspis
