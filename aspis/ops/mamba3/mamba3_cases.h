#pragma once

#include "aspis/ops/harness/harness.h"

namespace aspis {

harness::OpEntry mamba3_entry();

}  // namespace aspis
