#pragma once

#include "aspis/ops/harness/harness.h"

namespace aspis {

harness::OpEntry interpolate_entry();

}  // namespace aspis
