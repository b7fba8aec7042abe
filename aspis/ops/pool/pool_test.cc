#include "aspis/ops/pool/pool.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include "aspis/base/error.h"
#include "aspis/ops/harness/bf16.h"
#include "aspis/ops/harness/harness_doctest.h"
#include "aspis/ops/pool/pool_cases.h"

using namespace aspis;

TEST_CASE("max_pool conforms on every instruction set") { harness::expect_conforms(max_pool_entry()); }
TEST_CASE("avg_pool conforms on every instruction set") { harness::expect_conforms(avg_pool_entry()); }
TEST_CASE("max_pool and avg_pool keep bfloat16 in their kernels") {
  harness::expect_bf16_conforms(max_pool_entry());
  harness::expect_bf16_conforms(avg_pool_entry());
}

TEST_CASE("max_pool gives the whole gradient to the first of equal values") {
  const auto g = mx::grad([](const mx::array& v) { return mx::sum(max_pool(v, {.window = {3}, .stride = {3}})); })(
      mx::array({2.f, 5.f, 5.f, 7.f, 7.f, 7.f}, {1, 6, 1}));
  CHECK(mx::array_equal(mx::flatten(g), mx::array({0.f, 1.f, 0.f, 1.f, 0.f, 0.f})).item<bool>());
}

TEST_CASE("global_avg_pool is the mean over any number of axes") {
  const auto x = mx::reshape(mx::arange(0.0, 240.0, mx::float32), {2, 2, 3, 2, 2, 5});
  const auto want = mx::mean(x, std::vector<int>{1, 2, 3, 4});
  CHECK(mx::allclose(global_avg_pool(x), want, 1e-6, 0).item<bool>());
  CHECK(global_avg_pool(mx::zeros({0, 4, 3})).shape() == mx::Shape{0, 3});
  const auto g = mx::grad([](const mx::array& v) { return mx::sum(global_avg_pool(v)); })(x);
  CHECK(mx::allclose(g, mx::array(1.f / 24), 1e-6, 0).item<bool>());
}

TEST_CASE("pooling refuses what it cannot take with one sentence") {
  const auto x = mx::zeros({1, 4, 4, 2});
  CHECK_THROWS_WITH_AS(max_pool(x, {}), "[max_pool] a window is needed; got none", Error);
  CHECK_THROWS_WITH_AS(max_pool(x, {.window = {3}, .padding = {2}}),
                       "[max_pool] padding must be at most half of a window of 3; got 2", Error);
  CHECK_THROWS_WITH_AS(avg_pool(x, {.window = {5}}),
                       "[avg_pool] windows of 5 must fit into the padded axis; got 4", Error);
  CHECK_THROWS_WITH_AS(avg_pool(x, {.window = {2}, .dilation = {2}}), "[avg_pool] avg_pool has no dilation; got 2",
                       Error);
  CHECK_THROWS_WITH_AS(max_pool(x, {.window = {2, 2, 2}}), "[max_pool] window must have one number, or 2; got 3",
                       Error);
  CHECK_THROWS_WITH_AS(adaptive_avg_pool(x, {0}), "[adaptive_avg_pool] size must be 1 or more; got 0", Error);
  CHECK_THROWS_AS(max_pool(mx::zeros({4, 4}), {.window = {2}}), Error);
  CHECK_THROWS_AS(max_pool(mx::zeros({1, 4, 4, 2}, mx::int32), {.window = {2}}), Error);
  CHECK_THROWS_AS(global_avg_pool(mx::zeros({4, 4})), Error);
}
