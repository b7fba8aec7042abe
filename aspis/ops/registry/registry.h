#pragma once

#include <string_view>
#include <vector>

#include "aspis/ops/harness/harness.h"

namespace aspis {

/// Every operator with its cases, in the order they are shown: the one list
/// behind `aspis ops`, `aspis ops --check` and `aspis bench`.
const std::vector<harness::OpEntry>& op_registry();

/// The entry of that name. Throws Error(kUsage) with the nearest name.
const harness::OpEntry& find_op(std::string_view name);

}  // namespace aspis
