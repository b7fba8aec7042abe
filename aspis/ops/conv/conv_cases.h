#pragma once

#include "aspis/ops/harness/harness.h"

namespace aspis {

harness::OpEntry conv2d_entry();
harness::OpEntry conv3d_entry();
harness::OpEntry transposed_conv2d_entry();
harness::OpEntry transposed_conv3d_entry();

}  // namespace aspis
