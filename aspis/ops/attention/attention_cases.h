#pragma once

#include "aspis/ops/harness/harness.h"

namespace aspis {

harness::OpEntry attention_entry();

}  // namespace aspis
