#include "aspis/ops/cross_scan/kernel/orders.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <numeric>

#include "aspis/base/error.h"

using namespace aspis;

namespace {

std::vector<int32_t> row(const ScanOrders& o, int64_t k) {
  return {o.steps().begin() + k * o.length(), o.steps().begin() + (k + 1) * o.length()};
}

}  // namespace

TEST_CASE("SS2D visits a 2 x 3 grid by rows, by columns, and both backwards") {
  const auto o = ss2d_orders(2, 3);
  CHECK(row(o, 0) == std::vector<int32_t>{0, 1, 2, 3, 4, 5});
  CHECK(row(o, 1) == std::vector<int32_t>{0, 3, 1, 4, 2, 5});
  CHECK(row(o, 2) == std::vector<int32_t>{5, 4, 3, 2, 1, 0});
  CHECK(row(o, 3) == std::vector<int32_t>{5, 2, 4, 1, 3, 0});
  const auto one = ss2d_orders(2, 2, Ss2dMode::kUnidirectional), two = ss2d_orders(2, 2, Ss2dMode::kBidirectional);
  for (int k = 0; k < 4; k++) {
    CHECK(row(one, k) == std::vector<int32_t>{0, 1, 2, 3});
    CHECK(row(two, k) == (k < 2 ? std::vector<int32_t>{0, 1, 2, 3} : std::vector<int32_t>{3, 2, 1, 0}));
  }
}

TEST_CASE("every order of every grid is a permutation with its inverse") {
  for (const std::vector<int64_t>& grid : std::vector<std::vector<int64_t>>{
           {1}, {7}, {1, 9}, {5, 1}, {3, 4}, {2, 3, 4}, {1, 1, 5}, {2, 1, 3, 2}, {3, 3, 3, 3}}) {
    for (const auto order : {ScanOrder::kAxisFastest, ScanOrder::kCompat}) {
      const auto o = grid_orders(grid, order);
      CHECK(o.count() == 2 * static_cast<int64_t>(grid.size()));
      CHECK(o.length() == std::accumulate(grid.begin(), grid.end(), int64_t{1}, std::multiplies<>()));
      for (int64_t k = 0; k < o.count(); k++) {
        for (int64_t l = 0; l < o.length(); l++) {
          const auto token = o.steps()[static_cast<size_t>(k * o.length() + l)];
          CHECK(o.places()[static_cast<size_t>(k * o.length() + token)] == l);
        }
        if (k % 2 == 1) {
          auto back = row(o, k);
          std::reverse(back.begin(), back.end());
          CHECK(back == row(o, k - 1));
        }
      }
    }
  }
}

TEST_CASE("what is no set of orders is refused with one sentence") {
  using Lists = std::vector<std::vector<int32_t>>;
  const std::vector<std::pair<Lists, const char*>> rows = {
      {Lists(), "at least one order is needed; got none"},
      {Lists{{0, 1}, {0}}, "all orders must have the 2 steps of the first; got 1 steps in order 1"},
      {Lists{{0, 2}}, "an order must hold each of 0 .. 1 once; got 2 at step 1 of order 0"},
      {Lists{{0, 1}, {1, 1}}, "an order must hold each of 0 .. 1 once; got 1 at step 1 of order 1"},
      {Lists{std::vector<int32_t>{-1}}, "an order must hold each of 0 .. 0 once; got -1 at step 0 of order 0"},
  };
  for (const auto& [orders, says] : rows) {
    CHECK_THROWS_WITH_AS(ScanOrders(orders, "x"), (std::string("[x] ") + says).c_str(), Error);
  }
}
