#pragma once

#include "aspis/ops/harness/harness.h"

namespace aspis {

harness::OpEntry attention_entry();
harness::OpEntry window_attention_entry();

}  // namespace aspis
