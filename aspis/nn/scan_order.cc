#include "aspis/nn/scan_order.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "aspis/base/error.h"

namespace aspis {
namespace {

std::string quoted(std::string_view word) { return fmt::format("\"{}\"", word); }

}  // namespace

std::string to_string(ScanOrder order) { return order == ScanOrder::kCompat ? "compat" : "axis_fastest"; }

ScanOrder parse_scan_order(std::string_view name, const std::string& where) {
  if (name == "axis_fastest") return ScanOrder::kAxisFastest;
  if (name == "compat") return ScanOrder::kCompat;
  const std::vector<std::string> known{"axis_fastest", "compat"};
  throw Error(ErrorKind::kUsage, {.where = where,
                                  .required = "scan_order must be \"axis_fastest\" or \"compat\"",
                                  .got = quoted(name),
                                  .hint = nearest_word(name, known)});
}

std::vector<GridDirection> grid_directions(int axes, ScanOrder order) {
  require(axes >= 1 && axes <= 4, [&] {
    return Error::Parts{
        .where = "grid_directions", .required = "a grid has 1 to 4 axes", .got = std::to_string(axes), .hint = ""};
  });
  std::vector<GridDirection> list;
  for (int k = 0; k < axes; k++) {
    // On two axes S0's order is right already: its "row" pass, which runs along
    // the last axis, comes first.
    const bool lead = order == ScanOrder::kCompat || axes == 2;
    std::vector<int> perm;
    if (lead) perm.push_back(k);
    for (int a = 0; a < axes; a++) {
      if (a != k) perm.push_back(a);
    }
    if (!lead) perm.push_back(k);
    list.push_back({perm, false});
    list.push_back({perm, true});
  }
  return list;
}

std::vector<int32_t> token_order(const std::vector<int64_t>& grid, const GridDirection& direction) {
  require(grid.size() == direction.axes.size(), [&] {
    return Error::Parts{.where = "token_order",
                        .required = "the grid must have one size per axis of the direction",
                        .got = fmt::format("{} sizes for {} axes", grid.size(), direction.axes.size()),
                        .hint = ""};
  });
  std::vector<int64_t> stride(grid.size(), 1);
  for (size_t i = grid.size(); i-- > 1;) stride[i - 1] = stride[i] * grid[i];
  const int64_t count = std::accumulate(grid.begin(), grid.end(), int64_t{1}, std::multiplies<>());
  std::vector<int32_t> order(static_cast<size_t>(count));
  std::vector<int64_t> at(grid.size(), 0);  // position along the permuted axes
  for (int64_t t = 0; t < count; t++) {
    int64_t flat = 0;
    for (size_t i = 0; i < at.size(); i++) flat += at[i] * stride[static_cast<size_t>(direction.axes[i])];
    order[static_cast<size_t>(t)] = static_cast<int32_t>(flat);
    for (size_t i = at.size(); i-- > 0;) {
      if (++at[i] < grid[static_cast<size_t>(direction.axes[i])]) break;
      at[i] = 0;
    }
  }
  if (direction.reverse) std::reverse(order.begin(), order.end());
  return order;
}

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
