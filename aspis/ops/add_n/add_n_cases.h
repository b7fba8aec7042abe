#pragma once

#include "aspis/ops/harness/harness.h"

namespace aspis {

harness::OpEntry add_n_entry();

}  // namespace aspis
