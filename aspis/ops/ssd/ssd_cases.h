#pragma once

#include "aspis/ops/harness/harness.h"

namespace aspis {

harness::OpEntry ssd_entry();

}  // namespace aspis
