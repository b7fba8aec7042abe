#pragma once

#include <mlx/array.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "aspis/ops/cross_scan/kernel/orders.h"

namespace aspis {

namespace mx = mlx::core;

/// In which order one pass of a scan visits the tokens. Both empty: first to last.
struct ScanDirection {
  std::optional<mx::array> order;  ///< {L} int32 permutation: step t visits token order[t]
  bool reverse = false;            ///< last to first; never together with `order`
};

/// The same as an option for the kernels: identity and its reverse need no table.
ScanDirection scan_direction(const std::vector<int64_t>& grid, const GridDirection& direction);

/// The scan-mode names of mlx-vision-mamba: sequential, chunked, parallel,
/// batched, metal, metal_train, metal_fused, metal_chunked. They chose between
/// implementations of one operator; all run the same kernel here.
const std::vector<std::string>& scan_mode_names();
/// Throws Error(kUsage) with the nearest name if `mode` is none of them.
void check_scan_mode(std::string_view mode, const std::string& where = "scan_mode");

}  // namespace aspis
