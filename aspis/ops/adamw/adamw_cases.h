#pragma once

#include "aspis/ops/harness/harness.h"

namespace aspis {

harness::OpEntry adamw_entry();

}  // namespace aspis
