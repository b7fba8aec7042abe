#include "aspis/ops/reduce/reduce.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>

#include "aspis/base/error.h"
#include "aspis/ops/harness/bf16.h"
#include "aspis/ops/harness/harness_doctest.h"
#include "aspis/ops/reduce/reduce_cases.h"

using namespace aspis;

TEST_CASE("sum_over and mean_over conform on every instruction set") { harness::expect_conforms(reduce_entry()); }
TEST_CASE("sum_over and mean_over read bfloat16 in their kernel") {
  // A reshape or a cast of the few sums may stand behind the kernel.
  harness::expect_bf16_conforms(reduce_entry(), 1.0 / 256, false);
}

TEST_CASE("sum_to is the gradient of a broadcast, of a product too") {
  const auto x = mx::reshape(mx::arange(0.0, 120.0, mx::float32), {2, 3, 4, 5});
  const auto s = mx::default_stream(mx::Device::cpu);
  const auto same = [](const mx::array& a, const mx::array& b) {
    return mx::allclose(a, b, 1e-6, 0).item<bool>();
  };
  CHECK(same(ops::sum_to(x, std::nullopt, {5}, s), mx::sum(x, std::vector<int>{0, 1, 2})));
  CHECK(same(ops::sum_to(x, std::nullopt, {3, 1, 1}, s),
             mx::reshape(mx::sum(x, std::vector<int>{0, 2, 3}), {3, 1, 1})));
  CHECK(same(ops::sum_to(x, x, {2, 1, 4, 1}, s), mx::sum(mx::square(x), std::vector<int>{1, 3}, true)));
  CHECK(same(ops::sum_to(x, x, {2, 3, 4, 5}, s), mx::square(x)));
  CHECK(same(ops::sum_to(x, std::nullopt, {}, s), mx::sum(x)));
}

TEST_CASE("sum_over an empty axis is zero, and axes that are none are refused") {
  CHECK(mx::array_equal(sum_over(mx::zeros({3, 0}), {1}), mx::zeros({3})).item<bool>());
  CHECK(sum_over(mx::zeros({0, 3}), {1}).shape() == mx::Shape{0});
  CHECK(mean_over(mx::ones({2, 3}, mx::float16)).dtype() == mx::float16);
  CHECK_THROWS_WITH_AS(sum_over(mx::zeros({2, 3}), {2}), "[sum_over] axes must lie in [-2, 2), none twice; got 2",
                       Error);
  CHECK_THROWS_AS(sum_over(mx::zeros({2, 3}), {1, -1}), Error);
  CHECK_THROWS_AS(mean_over(mx::zeros({2}, mx::int32)), Error);
}
