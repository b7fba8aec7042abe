#include "aspis/ops/linear/linear.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include "aspis/base/error.h"
#include "aspis/ops/harness/bf16.h"
#include "aspis/ops/harness/harness_doctest.h"
#include "aspis/ops/linear/linear_cases.h"

using namespace aspis;
namespace mx = mlx::core;

TEST_CASE("linear conforms on every instruction set") { harness::expect_conforms(linear_entry()); }

TEST_CASE("linear conforms in bfloat16 on every instruction set") {
  harness::expect_bf16_conforms(linear_entry());
}

TEST_CASE("linear in bfloat16 takes master weights in float32 and gives their gradients in it") {
  const auto x = mx::astype(mx::sin(mx::arange(0.0f, 60.0f)), mx::bfloat16);
  const auto w = mx::cos(mx::arange(0.0f, 84.0f)), b = mx::arange(0.0f, 7.0f);
  const std::function<mx::array(const std::vector<mx::array>&)> loss = [](const std::vector<mx::array>& a) {
    const auto y = linear(mx::reshape(a[0], {5, 12}), mx::reshape(a[1], {7, 12}), a[2]);
    CHECK(y.dtype() == mx::bfloat16);
    return mx::sum(mx::astype(y, mx::float32));
  };
  const auto g = mx::grad(loss, std::vector<int>{0, 1, 2})({x, w, b});
  CHECK(g[0].dtype() == mx::bfloat16);
  CHECK(g[1].dtype() == mx::float32);
  CHECK(g[2].dtype() == mx::float32);
  // Sums of the rounded x, in float32: no rounding of the gradient.
  const auto columns = mx::sum(mx::reshape(mx::astype(x, mx::float32), {5, 12}), 0);
  CHECK(mx::allclose(mx::reshape(g[1], {7, 12}), mx::broadcast_to(columns, {7, 12}), 1e-6, 1e-6).item<bool>());
  CHECK(mx::array_equal(g[2], mx::full({7}, 5.f)).item<bool>());
}

TEST_CASE("linear reads slices along the last axis and batches of them in place") {
  const auto wide = mx::reshape(mx::arange(0.0f, 240.0f), {4, 5, 12});
  const auto weight = mx::reshape(mx::arange(0.0f, 21.0f), {3, 7});
  for (const int start : {0, 2, 5}) {
    const auto part = mx::slice(wide, {0, 0, start}, {4, 5, start + 7});
    CHECK(mx::array_equal(linear(part, weight), linear(mx::contiguous(part), weight)).item<bool>());
  }
  const auto turned = mx::transpose(wide, {1, 0, 2});
  const auto some = mx::slice(turned, {0, 0, 1}, {5, 4, 8});
  CHECK(mx::array_equal(linear(some, weight), linear(mx::contiguous(some), weight)).item<bool>());
}

TEST_CASE("linear gives only the gradients asked for") {
  const auto x = mx::ones({5, 3}), w = mx::ones({2, 3}), b = mx::zeros({2});
  const auto loss = [](const std::vector<mx::array>& a) { return mx::sum(linear(a[0], a[1], a[2])); };
  const auto only_bias = mx::grad(loss, std::vector<int>{2})({x, w, b});
  CHECK(mx::array_equal(only_bias[0], mx::array({5.f, 5.f})).item<bool>());
  const auto x_and_weight = mx::grad(loss, std::vector<int>{0, 1})({x, w, b});
  CHECK(mx::array_equal(x_and_weight[0], mx::full({5, 3}, 2.f)).item<bool>());
  CHECK(mx::array_equal(x_and_weight[1], mx::full({2, 3}, 5.f)).item<bool>());
}

TEST_CASE("linear keeps half dtypes and works on no rows") {
  const auto w = mx::astype(mx::ones({2, 3}), mx::bfloat16);
  CHECK(linear(mx::astype(mx::ones({4, 3}), mx::bfloat16), w).dtype() == mx::bfloat16);
  CHECK(linear(mx::ones({4, 3}), w).dtype() == mx::float32);
  const auto empty = linear(mx::zeros({0, 3}), mx::ones({2, 3}));
  mx::eval(empty);
  CHECK(empty.shape() == mx::Shape{0, 2});
}

TEST_CASE("linear refuses shapes and dtypes that do not fit with one sentence") {
  const auto x = mx::ones({4, 3}), w = mx::ones({2, 5});
  CHECK_THROWS_WITH_AS(linear(x, w),
                       "[linear] x must have 5 values in its last axis, as weight {2, 5} has; got {4, 3}", Error);
  CHECK_THROWS_WITH_AS(linear(x, mx::ones({3})), "[linear] weight must have shape {out, in}; got {3}", Error);
  CHECK_THROWS_WITH_AS(linear(mx::ones({4, 5}), w, mx::ones({3})),
                       "[linear] bias must have shape {out} = {2}; got {3}", Error);
  CHECK_THROWS_WITH_AS(linear(mx::ones({4, 5}, mx::int32), w),
                       "[linear] x must be a real floating-point array; got int32", Error);
}

TEST_CASE("linear with activation and residual is the sum of its parts, gradients included") {
  const auto wave = [](const mx::Shape& shape, float f) {
    int n = 1;
    for (const int d : shape) n *= d;
    return mx::reshape(mx::sin(mx::arange(0.0f, static_cast<float>(n)) * mx::array(f)), shape);
  };
  const auto x = wave({2, 7, 12}, 0.7f), w = wave({9, 12}, 1.3f), b = wave({9}, 2.1f), r = wave({7, 9}, 0.3f);
  for (const Activation kind : {Activation::kNone, Activation::kRelu, Activation::kSilu, Activation::kGelu}) {
    const auto fused = [kind](const std::vector<mx::array>& a) {
      return mx::sum(mx::square(linear(a[0], a[1], LinearOptions{a[2], kind, a[3]})));
    };
    const auto parts = [kind](const std::vector<mx::array>& a) {
      return mx::sum(mx::square(activation_composed(linear(a[0], a[1], a[2]), kind) + a[3]));
    };
    const std::vector<int> all{0, 1, 2, 3};
    const auto got = mx::value_and_grad(fused, all)({x, w, b, r});
    const auto want = mx::value_and_grad(parts, all)({x, w, b, r});
    CHECK(mx::allclose(got.first, want.first, 1e-5).item<bool>());
    for (size_t i = 0; i < 4; i++) {
      CHECK(got.second[i].shape() == want.second[i].shape());
      CHECK(mx::allclose(got.second[i], want.second[i], 1e-4, 1e-4).item<bool>());
    }
    // The residual's gradient alone needs no product.
    const auto only = mx::grad(fused, std::vector<int>{3})({x, w, b, r});
    CHECK(mx::array_equal(only[0], got.second[3]).item<bool>());
  }
  CHECK_THROWS_WITH_AS(linear(x, w, LinearOptions{{}, Activation::kNone, mx::ones({5, 9})}),
                       "[linear] residual must broadcast to the result {2, 7, 9}; got {5, 9}", Error);
}
