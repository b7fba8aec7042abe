#include "aspis/nn/conv.h"

#include <mlx/ops.h>

#include <cmath>

#include "aspis/base/error.h"
#include "aspis/nn/drop_path.h"
#include "aspis/nn/test_support.h"

namespace aspis {

using golden::normalised_error;
using golden::values_of;

TEST_CASE("batch_norm_normalises_the_batch_and_follows_it") {
  BatchNorm norm(2, Init(1));
  // Channel 0: 1, 3, 5, 7 (mean 4, variance 5); channel 1: all 2.
  const mx::array x({1.f, 2.f, 3.f, 2.f, 5.f, 2.f, 7.f, 2.f}, {2, 1, 2, 2});
  const auto y = values_of(norm(x));
  const double s = 1 / std::sqrt(5 + 1e-5);
  for (int i = 0; i < 4; i++) {
    CHECK(y[2 * i] == doctest::Approx((2 * i - 3) * s));
    CHECK(y[2 * i + 1] == doctest::Approx(0));
  }
  // PyTorch follows the unbiased variance, 20 / 3.
  CHECK(values_of(norm.running_mean)[0] == doctest::Approx(0.4));
  CHECK(values_of(norm.running_var)[0] == doctest::Approx(0.9 + 0.1 * 20 / 3));
  CHECK(values_of(norm.running_var)[1] == doctest::Approx(0.9));
  norm.eval();
  CHECK(values_of(norm(x))[0] == doctest::Approx((1 - 0.4) / std::sqrt(0.9 + 2.0 / 3 + 1e-5)));
  CHECK(values_of(norm.running_mean)[0] == doctest::Approx(0.4));
}

TEST_CASE("batch_norm_is_folded_into_the_convolution_in_inference") {
  const Init init(5);
  Conv2d conv({.in = 3, .out = 4, .kernel = 3, .stride = 2, .padding = 1}, init.child("conv"));
  BatchNorm norm(4, init.child("norm"));
  norm.weight = init.uniform("w", {4}, 2);
  norm.bias = init.uniform("b", {4}, 2);
  norm.running_mean = init.uniform("m", {4}, 1);
  norm.running_var = mx::abs(init.uniform("v", {4}, 1)) + mx::array(0.5f);
  const auto x = init.normal("x", {2, 5, 7, 3}, 1);
  CHECK(normalised_error(norm.after(conv, x), norm(conv(x))) < 1e-6);
  norm.eval();
  CHECK(norm.after(conv, x).shape() == mx::Shape{2, 3, 4, 4});
  CHECK(normalised_error(norm.after(conv, x), norm(conv(x))) < 1e-6);
}

TEST_CASE("batch_norm_behind_a_convolution_takes_residual_and_activation_in_both_modes") {
  const Init init(5);
  Conv2d conv({.in = 3, .out = 4, .kernel = 3, .padding = 1}, init.child("conv"));
  BatchNorm norm(4, init.child("norm"));
  norm.running_var = mx::array({0.5f, 1.f, 2.f, 3.f});
  norm.bias = init.uniform("b", {4}, 2);
  const auto x = init.normal("x", {2, 5, 4, 3}, 1), residual = init.normal("r", {2, 5, 4, 4}, 1);
  for (const bool training : {true, false}) {
    if (!training) norm.eval();
    const auto y = norm.after(conv, x) + residual;
    const auto zero = mx::array(0.f);
    CHECK(normalised_error(norm.after(conv, x, Activation::kRelu, residual), mx::maximum(y, zero)) < 1e-6);
    CHECK(normalised_error(norm.after(conv, x, Activation::kSilu, residual), y * mx::sigmoid(y)) < 1e-6);
    CHECK(normalised_error(norm.after(conv, x, Activation::kGelu, residual),
                           y * mx::array(0.5f) * (mx::array(1.f) + mx::erf(y * mx::array(0.70710678f)))) < 2e-6);
    CHECK(normalised_error(norm.after(conv, x, Activation::kGeluTanh, residual),
                           norm.after(conv, x, Activation::kGelu, residual)) < 1e-3);
  }
}

TEST_CASE("running_statistics_are_saved_with_the_module") {
  BatchNorm norm(2, Init(1));
  const auto state = norm.state();
  REQUIRE(state.size() == 4);
  CHECK(state[2].first == "running_mean");
  CHECK(norm.parameters().size() == 2);
}

TEST_CASE("drop_path_keeps_the_mean_and_drops_whole_samples") {
  DropPath drop(0.25, Init(7).child("block"));
  const RandomStep scope(3, 11);
  const auto y = values_of(drop(mx::ones({4000, 2, 1})));
  int dropped = 0;
  for (int b = 0; b < 4000; b++) {
    CHECK(y[2 * b] == y[2 * b + 1]);
    CHECK((y[2 * b] == 0 || y[2 * b] == doctest::Approx(4.0 / 3)));
    dropped += y[2 * b] == 0;
  }
  CHECK(dropped > 900);
  CHECK(dropped < 1100);
  const auto x = mx::ones({40, 3});
  CHECK(values_of(drop(x, x + x)) == values_of(drop(x) + x + x));
  CHECK_THROWS_WITH_AS(DropPath(1, Init(1)), doctest::Contains("[0, 1)"), Error);
  CHECK(drop_path_rates(0.2, 3) == std::vector<double>{0, 0.1, 0.2});
  CHECK(drop_path_rates(0.2, 1) == std::vector<double>{0});
}

TEST_CASE("dropout_differs_between_layers_and_steps_and_repeats_within_a_step") {
  const Init init(7);
  Dropout first(0.5, init.child("a")), second(0.5, init.child("b"));
  const auto x = mx::ones({64, 64});
  const auto run = [&](const Dropout& layer, int64_t step) {
    const RandomStep scope(3, step);
    return values_of(layer(x));
  };
  CHECK(run(first, 1) == run(first, 1));
  CHECK(run(first, 1) != run(first, 2));
  CHECK(run(first, 1) != run(second, 1));
  first.eval();
  CHECK(run(first, 1) == values_of(x));
  CHECK_THROWS_WITH_AS(Dropout(-0.1, init), doctest::Contains("[0, 1)"), Error);
}

TEST_CASE("blank_weights_are_zeros_in_their_scope_only") {
  const auto total = [](const mx::array& a) {
    double sum = 0;
    for (const double v : values_of(a)) sum += std::abs(v);
    return sum;
  };
  {
    const BlankWeights blank;
    CHECK(total(Init(1).normal("w", {3, 3}, 1)) == 0);
  }
  CHECK(total(Init(1).normal("w", {3, 3}, 1)) > 0);
}

}  // namespace aspis
