#pragma once

#include "aspis/ops/harness/harness.h"

namespace aspis {

harness::OpEntry cross_scan_entry();
harness::OpEntry cross_merge_entry();

}  // namespace aspis
