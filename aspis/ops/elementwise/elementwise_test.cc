#include "aspis/ops/elementwise/elementwise.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include "aspis/base/error.h"
#include "aspis/ops/elementwise/elementwise_cases.h"
#include "aspis/ops/harness/bf16.h"
#include "aspis/ops/harness/harness_doctest.h"

using namespace aspis;

TEST_CASE("pointwise functions conform on every instruction set") { harness::expect_conforms(pointwise_entry()); }
TEST_CASE("broadcast operations conform on every instruction set") { harness::expect_conforms(broadcast_entry()); }
TEST_CASE("dropout conforms on every instruction set") { harness::expect_conforms(dropout_entry()); }
TEST_CASE("elementwise operations keep bfloat16 in their kernels") {
  harness::expect_bf16_conforms(pointwise_entry());
  harness::expect_bf16_conforms(broadcast_entry(), 1.0 / 256, false);  // a reshape may stand behind
  harness::expect_bf16_conforms(dropout_entry());
}

TEST_CASE("elementwise operations keep shape and dtype, empty and scalar arrays included") {
  CHECK(relu(mx::zeros({0, 3})).shape() == mx::Shape{0, 3});
  CHECK(broadcast_add(mx::zeros({0, 3}), mx::zeros({3})).shape() == mx::Shape{0, 3});
  CHECK(multiply_add(mx::array(2.f), mx::array(3.f), mx::array(4.f)).item<float>() == 10.f);
  CHECK(aspis::tanh(mx::ones({2}, mx::float16)).dtype() == mx::float16);
  const auto half = mx::ones({2}, mx::bfloat16);
  CHECK(broadcast_multiply(half, half).dtype() == mx::bfloat16);
  CHECK(broadcast_multiply(half, mx::ones({2})).dtype() == mx::float32);
  mx::eval(broadcast_add(mx::zeros({0, 3}), mx::zeros({3})));
}

TEST_CASE("dropout of rate 0 is x, and its gradient drops what the result dropped") {
  const auto x = mx::ones({50, 40});
  CHECK(mx::array_equal(dropout(x, 0, 1, 2), x).item<bool>());
  const auto y = dropout(x, 0.4, 1, 2);
  const auto g = mx::grad([](const mx::array& v) { return mx::sum(dropout(v, 0.4, 1, 2)); })(x);
  CHECK(mx::array_equal(g, y).item<bool>());
}

TEST_CASE("cast rounds to bfloat16 as MLX does, with a gradient, and leaves other dtypes to it") {
  const auto x =
      mx::subtract(mx::multiply(mx::arange(0.0, 999.0, mx::float32), mx::array(0.377f)), mx::array(100.f));
  const auto turned = mx::transpose(mx::reshape(x, {27, 37}));
  CHECK(mx::array_equal(cast(x, mx::bfloat16), mx::astype(x, mx::bfloat16)).item<bool>());
  CHECK(mx::array_equal(cast(turned, mx::bfloat16), mx::astype(turned, mx::bfloat16)).item<bool>());
  CHECK(cast(cast(x, mx::bfloat16), mx::float32).dtype() == mx::float32);
  CHECK(cast(x, mx::float64).dtype() == mx::float64);
  const auto g =
      mx::grad([](const mx::array& v) { return mx::sum(mx::astype(cast(v, mx::bfloat16), mx::float32)); })(x);
  CHECK(mx::array_equal(g, mx::ones({999})).item<bool>());
}

TEST_CASE("elementwise operations refuse what they cannot take with one sentence") {
  CHECK_THROWS_WITH_AS(relu(mx::zeros({2}, mx::int32)), "[relu] x must be a real floating-point array; got int32",
                       Error);
  CHECK_THROWS_WITH_AS(broadcast_add(mx::zeros({2, 3}), mx::zeros({2})),
                       "[broadcast_add] shapes must broadcast; got {2, 3} and {2}", Error);
  CHECK_THROWS_WITH_AS(dropout(mx::zeros({2}), 1, 0, 0), "[dropout] the rate must lie in [0, 1); got 1.000000",
                       Error);
  CHECK_THROWS_AS(multiply_add(mx::zeros({2}), mx::zeros({2}), mx::zeros({3})), Error);
}
