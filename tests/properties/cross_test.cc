// Properties of visiting orders over random grids.

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>

#include "aspis/base/rng.h"
#include "aspis/ops/cross_scan/cross_scan.h"
#include "aspis/ops/ssd/ssd.h"
#include "tests/properties/recurrent.h"

namespace aspis::properties {
namespace {

std::vector<int64_t> random_grid(Rng& rng, int axes) {
  std::vector<int64_t> grid;
  for (int i = 0; i < axes; i++) grid.push_back(between(rng, 1, axes > 2 ? 5 : 13));
  if (between(rng, 0, 4) == 0) grid[static_cast<size_t>(between(rng, 0, axes - 1))] = 1;
  return grid;
}

mx::array route(const mx::array& all, int k) { return mx::squeeze(mx::take(all, mx::array({k}), 1), 1); }

}  // namespace

TEST_CASE("merging what was scanned is K times the input, every route a permutation with its inverse") {
  for (int i = 0; i < 100; i++) {
    Rng rng(1, "merge of scan", static_cast<uint64_t>(i));
    const auto grid = random_grid(rng, i < 60 ? 2 : static_cast<int>(between(rng, 1, 4)));
    const auto order = between(rng, 0, 1) ? ScanOrder::kCompat : ScanOrder::kAxisFastest;
    const auto orders = i < 40 ? ss2d_orders(grid[0], grid[1]) : grid_orders(grid, order);
    const int K = static_cast<int>(orders.count()), L = static_cast<int>(orders.length());
    CAPTURE(i);
    for (int k = 0; k < K; k++) {
      std::vector<int32_t> steps(orders.steps().begin() + k * L, orders.steps().begin() + (k + 1) * L);
      for (int l = 0; l < L; l++) CHECK(orders.places()[static_cast<size_t>(k * L + steps[l])] == l);
      std::sort(steps.begin(), steps.end());
      for (int l = 0; l < L; l++) CHECK(steps[l] == l);
    }
    // Whole numbers: sums are exact.
    const auto x = mx::round(normal(rng, {2, L, 3}, 50));
    CHECK(mx::array_equal(cross_merge(cross_scan(x, orders), orders), x * static_cast<float>(K)).item<bool>());
    // And the inverse of one route: merging with all other routes zero.
    const auto one = cross_scan(x, orders);
    const int k = static_cast<int>(between(rng, 0, K - 1));
    std::vector<float> only(static_cast<size_t>(K), 0);
    only[k] = 1;
    const auto mask = mx::array(only.data(), {1, K, 1, 1}, mx::float32);
    CHECK(mx::array_equal(cross_merge(one * mask, orders), x).item<bool>());
  }
}

TEST_CASE("routes by rows and by columns change places when the picture is transposed") {
  for (int i = 0; i < 50; i++) {
    Rng rng(1, "transpose", static_cast<uint64_t>(i));
    const int H = static_cast<int>(between(rng, 1, 12)), W = static_cast<int>(between(rng, 1, 12)), D = 3;
    CAPTURE(H);
    CAPTURE(W);
    const auto x = normal(rng, {2, H * W, D});
    const auto turned = mx::reshape(mx::swapaxes(mx::reshape(x, {2, H, W, D}), 1, 2), {2, H * W, D});
    const auto all = cross_scan(x, ss2d_orders(H, W)), of_turned = cross_scan(turned, ss2d_orders(W, H));
    for (const auto& [a, b] : {std::pair{0, 1}, {1, 0}, {2, 3}, {3, 2}})
      CHECK(mx::array_equal(route(all, a), route(of_turned, b)).item<bool>());
    // The way back too: what is merged of the transposed routes is the transposed merge.
    const auto y = mx::round(normal(rng, {2, 4, H * W, D}, 50));
    const auto swapped = mx::take(y, mx::array({1, 0, 3, 2}), 1);
    const auto merged = cross_merge(y, ss2d_orders(H, W)), of_swapped = cross_merge(swapped, ss2d_orders(W, H));
    const auto want = mx::reshape(mx::swapaxes(mx::reshape(merged, {2, H, W, D}), 1, 2), {2, H * W, D});
    CHECK(mx::array_equal(of_swapped, want).item<bool>());
  }
}

}  // namespace aspis::properties
