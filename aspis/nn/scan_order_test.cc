#include "aspis/nn/scan_order.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>

#include "aspis/base/error.h"

namespace aspis {
namespace {

using Order = std::vector<int32_t>;

std::vector<std::vector<int>> axes_of(const std::vector<GridDirection>& list) {
  std::vector<std::vector<int>> out;
  for (size_t i = 0; i < list.size(); i++) {
    CHECK(list[i].reverse == (i % 2 == 1));
    if (i % 2 == 0) {
      out.push_back(list[i].axes);
    } else {
      CHECK(list[i].axes == out.back());
    }
  }
  return out;
}

}  // namespace

TEST_CASE("direction_sets_are_those_of_the_specification") {
  using Axes = std::vector<std::vector<int>>;
  CHECK(axes_of(grid_directions(1, ScanOrder::kAxisFastest)) == Axes{{0}});
  for (const auto order : {ScanOrder::kAxisFastest, ScanOrder::kCompat}) {
    CHECK(axes_of(grid_directions(2, order)) == Axes{{0, 1}, {1, 0}});
  }
  CHECK(axes_of(grid_directions(3, ScanOrder::kCompat)) == Axes{{0, 1, 2}, {1, 0, 2}, {2, 0, 1}});
  CHECK(axes_of(grid_directions(3, ScanOrder::kAxisFastest)) == Axes{{1, 2, 0}, {0, 2, 1}, {0, 1, 2}});
  CHECK(axes_of(grid_directions(4, ScanOrder::kCompat)) ==
        Axes{{0, 1, 2, 3}, {1, 0, 2, 3}, {2, 0, 1, 3}, {3, 0, 1, 2}});
  CHECK(axes_of(grid_directions(4, ScanOrder::kAxisFastest)) ==
        Axes{{1, 2, 3, 0}, {0, 2, 3, 1}, {0, 1, 3, 2}, {0, 1, 2, 3}});
  CHECK_THROWS_AS(grid_directions(5, ScanOrder::kCompat), Error);
}

TEST_CASE("axis_fastest_makes_every_axis_the_fastest_once") {
  for (const int axes : {2, 3, 4}) {
    std::vector<int> fastest;
    for (const auto& d : grid_directions(axes, ScanOrder::kAxisFastest)) fastest.push_back(d.axes.back());
    for (int a = 0; a < axes; a++) CHECK(std::count(fastest.begin(), fastest.end(), a) == 2);
  }
}

TEST_CASE("token_orders_match_the_golden_ones") {  // systems page, 1.8(d)
  CHECK(token_order({2, 3}, {{1, 0}, false}) == Order{0, 3, 1, 4, 2, 5});
  CHECK(token_order({2, 3}, {{0, 1}, false}) == Order{0, 1, 2, 3, 4, 5});
  CHECK(token_order({2, 3}, {{1, 0}, true}) == Order{5, 2, 4, 1, 3, 0});
  CHECK(token_order({2, 2, 2}, {{1, 0, 2}, false}) == Order{0, 1, 4, 5, 2, 3, 6, 7});
  CHECK(token_order({2, 2, 2}, {{2, 0, 1}, false}) == Order{0, 2, 4, 6, 1, 3, 5, 7});
  CHECK(token_order({2, 2, 2}, {{1, 2, 0}, false}) == Order{0, 4, 1, 5, 2, 6, 3, 7});
  CHECK(token_order({2, 2, 2}, {{0, 2, 1}, false}) == Order{0, 2, 1, 3, 4, 6, 5, 7});
  auto start = [](Order order) { return Order(order.begin(), order.begin() + 8); };
  CHECK(start(token_order({2, 3, 4}, {{1, 0, 2}, false})) == Order{0, 1, 2, 3, 12, 13, 14, 15});
  CHECK(start(token_order({2, 3, 4}, {{2, 0, 1}, false})) == Order{0, 4, 8, 12, 16, 20, 1, 5});
}

TEST_CASE("every_order_is_a_permutation") {
  for (const auto& d : grid_directions(4, ScanOrder::kAxisFastest)) {
    auto order = token_order({2, 3, 1, 4}, d);
    std::sort(order.begin(), order.end());
    Order all(24);
    std::iota(all.begin(), all.end(), 0);
    CHECK(order == all);
  }
}

TEST_CASE("identity_needs_no_table") {
  const auto forward = scan_direction({2, 3}, {{0, 1}, false});
  CHECK_FALSE(forward.order.has_value());
  CHECK_FALSE(forward.reverse);
  CHECK(scan_direction({2, 3}, {{0, 1}, true}).reverse);
  const auto column = scan_direction({2, 3}, {{1, 0}, true});
  REQUIRE(column.order.has_value());
  CHECK_FALSE(column.reverse);
  CHECK(column.order->shape() == mx::Shape{6});
  CHECK(column.order->data<int32_t>()[0] == 5);
}

TEST_CASE("names_of_orders_and_modes_are_checked") {
  CHECK(parse_scan_order("compat") == ScanOrder::kCompat);
  CHECK(parse_scan_order(to_string(ScanOrder::kAxisFastest)) == ScanOrder::kAxisFastest);
  CHECK_THROWS_WITH_AS(parse_scan_order("axis-fastest"), doctest::Contains("axis_fastest"), Error);
  for (const auto& mode : scan_mode_names()) CHECK_NOTHROW(check_scan_mode(mode));
  CHECK(scan_mode_names().size() == 8);
  CHECK_THROWS_WITH_AS(check_scan_mode("metal_fusd"), doctest::Contains("Try: metal_fused"), Error);
}

}  // namespace aspis
