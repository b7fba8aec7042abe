#pragma once

#include <mlx/array.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "aspis/ops/cross_scan/kernel/orders.h"
#include "aspis/ops/selective_scan/scan_modes.h"  // IWYU pragma: export

namespace aspis {

namespace mx = mlx::core;

/// In which order one pass of a scan visits the tokens. Both empty: first to last.
struct ScanDirection {
  std::optional<mx::array> order;  ///< {L} int32 permutation: step t visits token order[t]
  bool reverse = false;            ///< last to first; never together with `order`
};

/// The same as an option for the kernels: identity and its reverse need no table.
ScanDirection scan_direction(const std::vector<int64_t>& grid, const GridDirection& direction);

}  // namespace aspis
