#pragma once

#include "aspis/ops/harness/harness.h"

namespace aspis {

harness::OpEntry reduce_entry();

}  // namespace aspis
