#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

/// Visiting orders as data: which token is visited at each step of a pass.
namespace aspis {

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

/// K orders over L tokens and where each token stands in them, checked.
class ScanOrders {
 public:
  /// Throws Error(kUsage) unless there is at least one order and each holds 0 .. L-1 once.
  explicit ScanOrders(const std::vector<std::vector<int32_t>>& orders, const std::string& where = "ScanOrders");

  int64_t count() const { return count_; }
  int64_t length() const { return length_; }
  /// {K, L}: the token at step l of order k.
  const std::vector<int32_t>& steps() const { return steps_; }
  /// {K, L}: the step of order k that visits token t.
  const std::vector<int32_t>& places() const { return places_; }

 private:
  int64_t count_ = 0, length_ = 0;
  std::vector<int32_t> steps_, places_;
};

/// Both directions of every axis of a grid of 1 to 4 axes: K = 2 axes.
ScanOrders grid_orders(const std::vector<int64_t>& grid, ScanOrder order = ScanOrder::kAxisFastest);

/// First to last and last to first (Vim).
ScanOrders bidirectional_orders(int64_t length);

/// The four passes of VMamba's SS2D over {height, width}.
enum class Ss2dMode {
  kCross,           ///< rows, columns, and both backwards
  kUnidirectional,  ///< rows, four times
  kBidirectional,   ///< rows twice, backwards twice
};
ScanOrders ss2d_orders(int64_t height, int64_t width, Ss2dMode mode = Ss2dMode::kCross);

}  // namespace aspis
