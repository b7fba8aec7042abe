#include "aspis/ops/cross_scan/cross_scan.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/random.h>
#include <mlx/transforms.h>

#include "aspis/base/error.h"
#include "aspis/ops/cross_scan/cross_scan_cases.h"
#include "aspis/ops/harness/harness_doctest.h"
#include "aspis/ops/selective_scan/selective_scan.h"

using namespace aspis;

TEST_CASE("cross_scan conforms on every instruction set") { harness::expect_conforms(cross_scan_entry()); }
TEST_CASE("cross_merge conforms on every instruction set") { harness::expect_conforms(cross_merge_entry()); }

TEST_CASE("merging what was scanned gives K times the input, or the input by the mean") {
  for (const std::vector<int64_t>& grid : std::vector<std::vector<int64_t>>{{1, 7}, {5, 1}, {3, 5}, {2, 3, 4}}) {
    const auto orders = grid_orders(grid);
    const int L = static_cast<int>(orders.length());
    const auto x = mx::random::normal({2, L, 5}, mx::float32, mx::random::key(1));
    const auto all = cross_scan(x, orders);
    const auto K = static_cast<float>(orders.count());
    CHECK(mx::allclose(cross_merge(all, orders), x * K, 1e-6, 1e-6).item<bool>());
    CHECK(mx::allclose(cross_merge(all, orders, CrossMerge::kMean), x, 1e-6, 1e-6).item<bool>());
  }
}

TEST_CASE("a scan with an order inside is a scan of the copy, put back") {
  const auto orders = ss2d_orders(3, 4);
  const auto draw = [](const mx::Shape& shape, int seed) {
    return mx::random::normal(shape, mx::float32, mx::random::key(seed));
  };
  const auto u = draw({2, 12, 6}, 1), delta = draw({2, 12, 6}, 2), B = draw({2, 12, 4}, 3),
             C = draw({2, 12, 4}, 4);
  const auto A = mx::negative(mx::abs(draw({6, 4}, 5)));
  std::vector<mx::array> copies, inside;
  const auto us = cross_scan(u, orders), ds = cross_scan(delta, orders), Bs = cross_scan(B, orders),
             Cs = cross_scan(C, orders);
  const auto pick = [](const mx::array& a, int k) { return mx::take(a, mx::array(k), 1); };
  for (int k = 0; k < 4; k++) {
    ScanOptions o;
    o.delta_softplus = true;
    copies.push_back(selective_scan(pick(us, k), pick(ds, k), A, pick(Bs, k), pick(Cs, k), o));
    o.order = mx::array(orders.steps().data() + k * 12, {12}, mx::int32);
    inside.push_back(selective_scan(u, delta, A, B, C, o));
  }
  const auto merged = cross_merge(mx::stack(copies, 1), orders);
  const auto sum = (inside[0] + inside[1]) + (inside[2] + inside[3]);
  CHECK(mx::allclose(merged, sum, 1e-5, 1e-5).item<bool>());
}

TEST_CASE("cross_scan and cross_merge refuse what does not fit") {
  const auto orders = ss2d_orders(2, 3);
  CHECK_THROWS_WITH_AS(cross_scan(mx::ones({2, 5, 3}), orders),
                       "[cross_scan] x must have shape {B, L, D} with L = 6; got {2, 5, 3}", Error);
  CHECK_THROWS_WITH_AS(cross_merge(mx::ones({2, 3, 6, 3}), orders),
                       "[cross_merge] x must have shape {B, K, L, D} with K = 4 and L = 6; got {2, 3, 6, 3}",
                       Error);
  CHECK_THROWS_AS(cross_scan(mx::ones({2, 6, 3}, mx::int32), orders), Error);
  CHECK(cross_scan(mx::zeros({0, 6, 3}), orders).shape() == mx::Shape{0, 4, 6, 3});
}
