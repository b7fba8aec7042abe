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

TEST_CASE("the orders of S0 on grids of 1, 2 and 3 axes") {
  using Tokens = std::vector<int32_t>;
  for (const auto order : {ScanOrder::kAxisFastest, ScanOrder::kCompat}) {
    CHECK(row(grid_orders({3}, order), 0) == Tokens{0, 1, 2});
    // On two axes both are the same: rows first, then columns.
    const auto flat = grid_orders({2, 3}, order);
    CHECK(row(flat, 0) == Tokens{0, 1, 2, 3, 4, 5});
    CHECK(row(flat, 2) == Tokens{0, 3, 1, 4, 2, 5});
  }
  // Order k runs fastest along axis k; in the compatible form slowest.
  const auto fast = grid_orders({2, 2, 2}, ScanOrder::kAxisFastest), compat = grid_orders({2, 2, 2}, ScanOrder::kCompat);
  CHECK(row(fast, 0) == Tokens{0, 4, 1, 5, 2, 6, 3, 7});
  CHECK(row(fast, 2) == Tokens{0, 2, 1, 3, 4, 6, 5, 7});
  CHECK(row(fast, 4) == Tokens{0, 1, 2, 3, 4, 5, 6, 7});
  CHECK(row(compat, 0) == Tokens{0, 1, 2, 3, 4, 5, 6, 7});
  CHECK(row(compat, 2) == Tokens{0, 1, 4, 5, 2, 3, 6, 7});
  CHECK(row(compat, 4) == Tokens{0, 2, 4, 6, 1, 3, 5, 7});
}

TEST_CASE("a grid has 1 to 4 axes") {
  for (const int axes : {-1, 0, 5}) {
    for (const auto order : {ScanOrder::kAxisFastest, ScanOrder::kCompat}) {
      CHECK_THROWS_WITH_AS(grid_directions(axes, order), doctest::Contains("1 to 4 axes"), Error);
    }
  }
  CHECK(grid_directions(1, ScanOrder::kCompat).size() == 2);
  CHECK(grid_directions(4, ScanOrder::kCompat).size() == 8);
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
