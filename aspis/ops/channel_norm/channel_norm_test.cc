#include "aspis/ops/channel_norm/channel_norm.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include "aspis/base/error.h"
#include "aspis/ops/channel_norm/channel_norm_cases.h"
#include "aspis/ops/harness/bf16.h"
#include "aspis/ops/harness/harness_doctest.h"

using namespace aspis;

TEST_CASE("batch_norm conforms on every instruction set") { harness::expect_conforms(batch_norm_entry()); }
TEST_CASE("group_norm conforms on every instruction set") { harness::expect_conforms(group_norm_entry()); }
TEST_CASE("batch_norm and group_norm keep bfloat16 in their kernels") {
  // Batches of three to six values: a rounded x moves the mean of so few visibly
  // less than half a unit, a rounded residual the input of the activation by one.
  harness::expect_bf16_conforms(batch_norm_entry());
  harness::expect_bf16_conforms(group_norm_entry());
}

TEST_CASE("batch_norm follows the running statistics as PyTorch does") {
  // Channel 0: 1, 3, 5, 7 (mean 4, variance 5, unbiased 20 / 3); channel 1: all 2.
  const mx::array x({1.f, 2.f, 3.f, 2.f, 5.f, 2.f, 7.f, 2.f}, {2, 1, 2, 2});
  const auto r = batch_norm_training(x, std::nullopt, std::nullopt, mx::zeros({2}), mx::ones({2}));
  CHECK(mx::allclose(r.running_mean, mx::array({0.4f, 0.2f}), 1e-6, 1e-7).item<bool>());
  CHECK(mx::allclose(r.running_var, mx::array({0.9f + 2.f / 3, 0.9f}), 1e-6, 1e-7).item<bool>());
  CHECK(mx::allclose(mx::slice(r.y, {0, 0, 0, 1}, {2, 1, 2, 2}), mx::array(0.f), 0, 1e-6).item<bool>());
}

TEST_CASE("batch_norm keeps the running statistics in float32 beside bfloat16 activations") {
  const auto x = mx::astype(mx::reshape(mx::arange(0.0, 24.0, mx::float32), {2, 3, 4}), mx::bfloat16);
  const auto r = batch_norm_training(x, mx::ones({4}), mx::zeros({4}), mx::zeros({4}), mx::ones({4}));
  CHECK(r.y.dtype() == mx::bfloat16);
  CHECK(r.running_mean.dtype() == mx::float32);
  CHECK(mx::allclose(r.running_mean, mx::array({1.f, 1.1f, 1.2f, 1.3f}), 1e-6, 1e-6).item<bool>());
  const auto half = mx::astype(x, mx::float16);
  CHECK(group_norm(half, 2, mx::ones({4}), std::nullopt).dtype() == mx::float16);
}

TEST_CASE("batch_norm of one repeated value has a finite gradient, group_norm of one value a gradient of zero") {
  const auto flat = mx::full({6, 3}, 2.f);
  const auto g = mx::grad([](const mx::array& v) {
    return mx::sum(
        mx::square(batch_norm_training(v, mx::ones({3}), mx::ones({3}), mx::zeros({3}), mx::ones({3})).y));
  })(flat);
  CHECK(mx::all(mx::isfinite(g)).item<bool>());
  const auto single = mx::array({1.f, 5.f, -3.f}, {1, 1, 3});
  const auto zero = mx::grad([](const mx::array& v) {
    return mx::sum(instance_norm(v, mx::array({0.3f, 0.7f, 1.1f}), std::nullopt));
  })(single);
  CHECK(mx::array_equal(zero, mx::zeros({1, 1, 3})).item<bool>());
}

TEST_CASE("group_norm of an empty batch is empty") {
  const auto y = group_norm(mx::zeros({0, 4, 6}), 2, mx::ones({6}), mx::zeros({6}));
  CHECK(y.shape() == mx::Shape{0, 4, 6});
  mx::eval(y);
  const auto dw = mx::grad([](const mx::array& w) {
    return mx::sum(group_norm(mx::zeros({0, 4, 6}), 2, w, std::nullopt));
  })(mx::ones({6}));
  CHECK(mx::array_equal(dw, mx::zeros({6})).item<bool>());
}

TEST_CASE("channel norms refuse what they cannot take with one sentence") {
  const auto x = mx::zeros({2, 3, 4}), stats = mx::zeros({4});
  CHECK_THROWS_WITH_AS(batch_norm(x, mx::ones({3}), std::nullopt, stats, stats),
                       "[batch_norm] weight must have shape {C} = {4}; got {3}", Error);
  CHECK_THROWS_WITH_AS(group_norm(x, 3, std::nullopt, std::nullopt),
                       "[group_norm] groups must divide the 4 channels; got 3", Error);
  CHECK_THROWS_WITH_AS(group_norm(mx::zeros({2, 3, 4}, mx::int32), 2, std::nullopt, std::nullopt),
                       "[group_norm] x must be a real floating-point array; got int32", Error);
  CHECK_THROWS_AS(group_norm(mx::zeros({4}), 2, std::nullopt, std::nullopt), Error);
  CHECK_THROWS_AS(batch_norm(x, std::nullopt, std::nullopt, stats, stats, {.eps = -1}), Error);
  CHECK_THROWS_AS(batch_norm_training(x, std::nullopt, std::nullopt, stats, stats, 2.f), Error);
}

TEST_CASE("batch_norm of one value a channel is the bias, with a gradient of zero") {
  const auto x = mx::array({3.f, -2.f}, {1, 2}), w = mx::array({2.f, 0.7f}), b = mx::array({0.5f, 1.f});
  const auto run = [&](const mx::array& v) {
    return batch_norm_training(v, w, b, mx::zeros({2}), mx::ones({2})).y;
  };
  CHECK(mx::array_equal(run(x), mx::reshape(b, {1, 2})).item<bool>());
  CHECK(mx::array_equal(mx::grad([&](const mx::array& v) { return mx::sum(run(v)); })(x), mx::zeros({1, 2}))
            .item<bool>());
}
