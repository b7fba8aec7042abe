#pragma once

#include <mlx/array.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace aspis {

namespace mx = mlx::core;

/// In which order one pass of a scan visits the tokens. Both empty: first to last.
struct ScanDirection {
  std::optional<mx::array> order;  ///< {L} int32 permutation: step t visits token order[t]
  bool reverse = false;            ///< last to first; never together with `order`
};

/// Which set of directions a grid gets.
///
/// The grid is flattened row-major, so that its last axis runs fastest. A pair
/// of directions belongs to every axis. `kAxisFastest` makes that axis the
/// fastest; `kCompat` is the order of mlx-vision-mamba 0.1.1, which makes it
/// the slowest. On two axes both give the same four.
enum class ScanOrder { kAxisFastest, kCompat };

/// "axis_fastest", "compat".
std::string to_string(ScanOrder order);
/// Throws Error(kUsage) with the nearest word for other names.
ScanOrder parse_scan_order(std::string_view name, const std::string& where = "scan_order");

/// Permutation of the axes of a grid (`axes[0]` becomes the slowest) and whether
/// the flattened sequence is then reversed.
struct GridDirection {
  std::vector<int> axes;
  bool reverse = false;

  bool operator==(const GridDirection&) const = default;
};

/// The 2 * axes directions of a grid with 2, 3 or 4 axes, each forwards and
/// then backwards:
///
///     axes  kAxisFastest                                kCompat
///     2     (0,1) (1,0)                                 (0,1) (1,0)
///     3     (1,2,0) (0,2,1) (0,1,2)                     (0,1,2) (1,0,2) (2,0,1)
///     4     (1,2,3,0) (0,2,3,1) (0,1,3,2) (0,1,2,3)     (0,1,2,3) (1,0,2,3) (2,0,1,3) (3,0,1,2)
///
/// One axis gives forwards and backwards. Throws Error(kUsage) for other numbers.
std::vector<GridDirection> grid_directions(int axes, ScanOrder order);

/// Visiting order of a direction over a grid: element t is the flat index of
/// the token visited at step t.
std::vector<int32_t> token_order(const std::vector<int64_t>& grid, const GridDirection& direction);

/// The same as an option for the kernels: identity and its reverse need no table.
ScanDirection scan_direction(const std::vector<int64_t>& grid, const GridDirection& direction);

/// The scan-mode names of mlx-vision-mamba: sequential, chunked, parallel,
/// batched, metal, metal_train, metal_fused, metal_chunked. They chose between
/// implementations of one operator; all run the same kernel here.
const std::vector<std::string>& scan_mode_names();
/// Throws Error(kUsage) with the nearest name if `mode` is none of them.
void check_scan_mode(std::string_view mode, const std::string& where = "scan_mode");

}  // namespace aspis
