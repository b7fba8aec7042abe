#include "aspis/ops/cross_scan/kernel/orders.h"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
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

ScanOrders::ScanOrders(const std::vector<std::vector<int32_t>>& orders, const std::string& where) {
  require(!orders.empty(), [&] { return Error::Parts{where, "at least one order is needed", "none", ""}; });
  count_ = static_cast<int64_t>(orders.size());
  length_ = static_cast<int64_t>(orders[0].size());
  places_.assign(static_cast<size_t>(count_ * length_), -1);
  for (int64_t k = 0; k < count_; k++) {
    const auto& order = orders[static_cast<size_t>(k)];
    require(static_cast<int64_t>(order.size()) == length_, [&] {
      return Error::Parts{where, fmt::format("all orders must have the {} steps of the first", length_),
                          fmt::format("{} steps in order {}", order.size(), k), ""};
    });
    for (int64_t l = 0; l < length_; l++) {
      const int32_t token = order[static_cast<size_t>(l)];
      require(token >= 0 && token < length_ && places_[static_cast<size_t>(k * length_ + token)] < 0, [&] {
        return Error::Parts{where, fmt::format("an order must hold each of 0 .. {} once", length_ - 1),
                            fmt::format("{} at step {} of order {}", token, l, k), ""};
      });
      places_[static_cast<size_t>(k * length_ + token)] = static_cast<int32_t>(l);
      steps_.push_back(token);
    }
  }
}

ScanOrders grid_orders(const std::vector<int64_t>& grid, ScanOrder order) {
  std::vector<std::vector<int32_t>> orders;
  for (const auto& direction : grid_directions(static_cast<int>(grid.size()), order))
    orders.push_back(token_order(grid, direction));
  return ScanOrders(orders, "grid_orders");
}

ScanOrders bidirectional_orders(int64_t length) { return grid_orders({length}); }

ScanOrders ss2d_orders(int64_t height, int64_t width, Ss2dMode mode) {
  const std::vector<int64_t> grid{height, width};
  const auto pass = [&](bool columns, bool reverse) {
    return token_order(grid, {columns ? std::vector<int>{1, 0} : std::vector<int>{0, 1}, reverse});
  };
  const auto rows = pass(false, false), back = pass(false, true);
  switch (mode) {
    case Ss2dMode::kUnidirectional:
      return ScanOrders({rows, rows, rows, rows}, "ss2d_orders");
    case Ss2dMode::kBidirectional:
      return ScanOrders({rows, rows, back, back}, "ss2d_orders");
    default:
      return ScanOrders({rows, pass(true, false), back, pass(true, true)}, "ss2d_orders");
  }
}

}  // namespace aspis
