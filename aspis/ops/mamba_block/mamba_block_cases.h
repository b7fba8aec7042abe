#pragma once

#include "aspis/ops/harness/harness.h"

namespace aspis {

harness::OpEntry mamba_block_entry();

}  // namespace aspis
