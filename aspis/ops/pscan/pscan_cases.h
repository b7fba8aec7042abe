#pragma once

#include "aspis/ops/harness/harness.h"

namespace aspis {

harness::OpEntry pscan_entry();

}  // namespace aspis
