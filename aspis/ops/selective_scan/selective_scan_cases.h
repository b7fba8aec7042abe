#pragma once

#include "aspis/ops/harness/harness.h"

namespace aspis {

harness::OpEntry selective_scan_entry();

}  // namespace aspis
