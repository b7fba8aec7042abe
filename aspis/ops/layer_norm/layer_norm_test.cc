#include "aspis/ops/layer_norm/layer_norm.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include "aspis/base/error.h"
#include "aspis/ops/harness/bf16.h"
#include "aspis/ops/harness/harness_doctest.h"
#include "aspis/ops/layer_norm/layer_norm_cases.h"

using namespace aspis;
namespace mx = mlx::core;

TEST_CASE("layer_norm conforms on every instruction set") { harness::expect_conforms(layer_norm_entry()); }

TEST_CASE("layer_norm_channels_first conforms on every instruction set") {
  harness::expect_conforms(layer_norm_channels_first_entry());
}

TEST_CASE("layer norms keep bfloat16 in their kernels") {
  harness::expect_bf16_conforms(layer_norm_channels_first_entry());
  harness::expect_bf16_conforms(layer_norm_entry());
}

TEST_CASE("layer_norm of a constant row is the bias, with a finite gradient") {
  const auto x = mx::full({2, 8}, 3.0f), w = mx::full({8}, 2.0f);
  const auto b = mx::arange(0.0, 8.0, mx::float32);
  CHECK(mx::all(mx::equal(layer_norm(x, w, b), mx::broadcast_to(b, {2, 8}))).item<bool>());
  const auto g = mx::grad([&](const mx::array& v) { return mx::sum(mx::square(layer_norm(v, w, b))); })(x);
  CHECK(mx::all(mx::isfinite(g)).item<bool>());
}

TEST_CASE("layer_norm keeps its digits when a row has a large common offset") {
  // Steps of 1/8 around 4096 are exact in float32, also in the sums of 32 of them.
  const auto x = mx::multiply(mx::arange(0.0, 32.0, mx::float32), mx::array(0.125f));
  const auto near = layer_norm(x, std::nullopt, std::nullopt);
  const auto far = layer_norm(mx::add(x, mx::array(4096.0f)), std::nullopt, std::nullopt);
  CHECK(mx::allclose(near, far, 0.0, 1e-6).item<bool>());
}

TEST_CASE("add_layer_norm passes the gradient of an unused result as zero") {
  const auto x = mx::array({1.0f, 2.0f, 4.0f, 3.0f, 0.0f, 7.0f}, {2, 3}), r = mx::ones({2, 3});
  const auto w = mx::array({1.0f, -2.0f, 0.5f}), b = mx::zeros({3});
  const auto through_sum =
      mx::grad([&](const mx::array& v) { return mx::sum(add_layer_norm(v, r, w, b).second); })(x);
  CHECK(mx::all(mx::equal(through_sum, mx::array(1.0f))).item<bool>());
  const auto through_norm =
      mx::grad([&](const mx::array& v) { return mx::sum(add_layer_norm(v, r, w, b).first); })(x);
  const auto want =
      mx::grad([&](const mx::array& v) { return mx::sum(layer_norm_composed(mx::add(v, r), w, b)); })(x);
  CHECK(mx::allclose(through_norm, want, 1e-5, 1e-6).item<bool>());
  CHECK(mx::max(mx::abs(want)).item<float>() > 0.1f);
}

TEST_CASE("layer_norm gives the gradient of each argument asked for alone") {
  const std::vector<mx::array> in = {mx::array({1.0f, 2.0f, 4.0f, 3.0f, 0.0f, 7.0f}, {2, 3}),
                                     mx::array({1.0f, 5.0f, -1.0f, 0.0f, 2.0f, 1.0f}, {2, 3}),
                                     mx::array({1.0f, -2.0f, 0.5f}), mx::array({0.5f, 0.0f, 2.0f})};
  const auto op = [](const std::vector<mx::array>& a) {
    return mx::sum(mx::square(add_layer_norm(a[0], a[1], a[2], a[3]).first));
  };
  const auto composed = [](const std::vector<mx::array>& a) {
    return mx::sum(mx::square(layer_norm_composed(mx::add(a[0], a[1]), a[2], a[3])));
  };
  for (int i = 0; i < 4; i++) {
    CAPTURE(i);
    const auto got = mx::grad(op, std::vector<int>{i})(in)[0],
               want = mx::grad(composed, std::vector<int>{i})(in)[0];
    CHECK(got.shape() == in[i].shape());
    CHECK(mx::allclose(got, want, 1e-4, 1e-5).item<bool>());
  }
}

TEST_CASE("layer_norm keeps shape and dtype, empty arrays included") {
  const auto one = mx::ones({3});
  CHECK(layer_norm(mx::zeros({0, 3}), one, one).shape() == mx::Shape{0, 3});
  mx::eval(layer_norm(mx::zeros({0, 3}), one, one));
  // The gradients of weight and bias over no rows are zero.
  const auto [dw, db] = [&] {
    const auto g = mx::grad(
        [](const std::vector<mx::array>& a) {
          return mx::sum(layer_norm(mx::zeros({0, 3}), a[0], a[1]));
        },
        std::vector<int>{0, 1})({one, one});
    return std::pair(g[0], g[1]);
  }();
  CHECK(mx::all(mx::equal(dw, mx::array(0.0f))).item<bool>());
  CHECK(mx::all(mx::equal(db, mx::array(0.0f))).item<bool>());
  const auto half = mx::ones({2, 4}, mx::bfloat16);
  CHECK(layer_norm(half, mx::ones({4}), mx::ones({4})).dtype() == mx::bfloat16);
  CHECK(add_layer_norm(half, half, mx::ones({4}), std::nullopt).second.dtype() == mx::bfloat16);
}

TEST_CASE("layer_norm refuses wrong arguments with one sentence") {
  const auto x = mx::zeros({2, 4});
  CHECK_THROWS_WITH_AS(layer_norm(x, mx::ones({3}), std::nullopt),
                       "[layer_norm] weight must have shape {N} = {4}; got {3}", Error);
  CHECK_THROWS_WITH_AS(layer_norm(x, std::nullopt, mx::ones({2, 4})),
                       "[layer_norm] bias must have shape {N} = {4}; got {2, 4}", Error);
  CHECK_THROWS_WITH_AS(layer_norm(mx::zeros({2, 4}, mx::int32), std::nullopt, std::nullopt),
                       "[layer_norm] x must be a real floating-point array; got int32", Error);
  CHECK_THROWS_WITH_AS(add_layer_norm(x, mx::zeros({4}), std::nullopt, std::nullopt),
                       "[add_layer_norm] residual must have shape of x = {2, 4}; got {4}", Error);
  CHECK_THROWS_AS(layer_norm(x, std::nullopt, std::nullopt, -1.0f), Error);
  CHECK_THROWS_AS(layer_norm(mx::array(1.0f), std::nullopt, std::nullopt), Error);
  CHECK_THROWS_WITH_AS(layer_norm_channels_first(mx::zeros({2, 4, 3}), mx::ones({3}), std::nullopt),
                       "[layer_norm_channels_first] weight must have shape {N} = {4}; got {3}", Error);
  CHECK_THROWS_AS(layer_norm_channels_first(mx::zeros({4}), std::nullopt, std::nullopt), Error);
}
