#include "aspis/nn/scan_order.h"

#include <algorithm>

namespace aspis {

ScanDirection scan_direction(const std::vector<int64_t>& grid, const GridDirection& direction) {
  if (std::is_sorted(direction.axes.begin(), direction.axes.end())) return {std::nullopt, direction.reverse};
  const auto order = token_order(grid, direction);
  return {mx::array(order.begin(), {static_cast<mx::ShapeElem>(order.size())}, mx::int32), false};
}

}  // namespace aspis
