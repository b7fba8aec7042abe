#include "aspis/nn/scan_order.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "aspis/base/error.h"

namespace aspis {
namespace {

std::string quoted(std::string_view word) { return fmt::format("\"{}\"", word); }

}  // namespace

ScanDirection scan_direction(const std::vector<int64_t>& grid, const GridDirection& direction) {
  if (std::is_sorted(direction.axes.begin(), direction.axes.end())) return {std::nullopt, direction.reverse};
  const auto order = token_order(grid, direction);
  return {mx::array(order.begin(), {static_cast<mx::ShapeElem>(order.size())}, mx::int32), false};
}

const std::vector<std::string>& scan_mode_names() {
  static const std::vector<std::string> names{"sequential", "chunked",     "parallel",    "batched",
                                              "metal",      "metal_train", "metal_fused", "metal_chunked"};
  return names;
}

void check_scan_mode(std::string_view mode, const std::string& where) {
  const auto& names = scan_mode_names();
  if (std::find(names.begin(), names.end(), mode) != names.end()) return;
  throw Error(ErrorKind::kUsage, {.where = where,
                                  .required = fmt::format("scan_mode must be one of {}", fmt::join(names, ", ")),
                                  .got = quoted(mode),
                                  .hint = nearest_word(mode, names)});
}

}  // namespace aspis
