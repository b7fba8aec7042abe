#include "aspis/ops/conv/conv.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <functional>
#include <limits>
#include <string>

#include "aspis/base/error.h"
#include "aspis/ops/conv/conv_cases.h"
#include "aspis/ops/harness/bf16.h"
#include "aspis/ops/harness/harness_doctest.h"

using namespace aspis;

TEST_CASE("conv2d conforms on every instruction set") { harness::expect_conforms(conv2d_entry()); }
TEST_CASE("conv3d conforms on every instruction set") { harness::expect_conforms(conv3d_entry()); }

TEST_CASE("transposed_conv2d conforms on every instruction set") {
  harness::expect_conforms(transposed_conv2d_entry());
}
TEST_CASE("transposed_conv3d conforms on every instruction set") {
  harness::expect_conforms(transposed_conv3d_entry());
}

TEST_CASE("transposed_conv1d is the two-dimensional one of height 1, gradients included") {
  const auto x = mx::reshape(mx::sin(mx::arange(0.0f, 60.0f)), {2, 10, 3});
  const auto w = mx::reshape(mx::cos(mx::arange(0.0f, 48.0f)), {3, 4, 4}), b = mx::arange(0.0f, 4.0f);
  const std::function<mx::array(const std::vector<mx::array>&)> line = [](const std::vector<mx::array>& a) {
    TransposedConvOptions<1> o;
    o.stride = {3};
    o.padding = {1};
    o.output_padding = {2};
    o.bias = a[2];
    const auto y = transposed_conv1d(a[0], a[1], o);
    CHECK(y.shape() == mx::Shape{2, 31, 4});
    return mx::sum(mx::square(y));
  };
  const std::function<mx::array(const std::vector<mx::array>&)> plane = [](const std::vector<mx::array>& a) {
    TransposedConvOptions<2> o;
    o.stride = {1, 3};
    o.padding = {0, 1};
    o.output_padding = {0, 2};
    o.bias = a[2];
    return mx::sum(mx::square(transposed_conv2d(mx::expand_dims(a[0], 1), mx::expand_dims(a[1], 1), o)));
  };
  const auto got = mx::value_and_grad(line, std::vector<int>{0, 1, 2})({x, w, b});
  const auto want = mx::value_and_grad(plane, std::vector<int>{0, 1, 2})({x, w, b});
  CHECK(mx::array_equal(got.first, want.first).item<bool>());
  for (size_t i = 0; i < 3; i++) CHECK(mx::array_equal(got.second[i], want.second[i]).item<bool>());
}

TEST_CASE("transposed_conv2d refuses what does not fit with one sentence") {
  const auto x = mx::ones({1, 3, 3, 4});
  CHECK_THROWS_WITH_AS(transposed_conv2d(x, mx::ones({3, 2, 2, 5})),
                       doctest::Contains("begin with the 4 channels of x"), Error);
  TransposedConvOptions<2> o;
  o.output_padding = {1, 0};
  CHECK_THROWS_WITH_AS(transposed_conv2d(x, mx::ones({4, 2, 2, 5}), o),
                       doctest::Contains("output_padding must be less than stride or dilation; got 1"), Error);
  o = {};
  o.padding = {3, 3};
  CHECK_THROWS_WITH_AS(transposed_conv2d(x, mx::ones({4, 2, 2, 5}), o), doctest::Contains("at least one place"),
                       Error);
}

TEST_CASE("convolutions conform in bfloat16, and keep it beside a weight in float32") {
  harness::expect_bf16_conforms(conv2d_entry(), 1.0 / 256, false);
  const auto x = mx::astype(mx::ones({1, 4, 4, 3}), mx::bfloat16);
  CHECK(conv2d(x, mx::ones({5, 3, 3, 3}), Conv2dOptions{}).dtype() == mx::bfloat16);
  CHECK(transposed_conv2d(x, mx::ones({3, 2, 2, 5})).dtype() == mx::bfloat16);
}

TEST_CASE("conv2d gives only the gradients asked for") {
  const auto x = mx::ones({2, 4, 4, 3}), w = mx::ones({5, 3, 3, 3}), b = mx::zeros({5});
  const auto loss = [](const std::vector<mx::array>& a) { return mx::sum(conv2d(a[0], a[1], {.bias = a[2]})); };
  const auto bias = mx::grad(loss, std::vector<int>{2})({x, w, b});
  CHECK(mx::array_equal(bias[0], mx::full({5}, 8.f)).item<bool>());
  const auto weight = mx::grad(loss, std::vector<int>{1})({x, w, b});
  CHECK(mx::array_equal(weight[0], mx::full({5, 3, 3, 3}, 8.f)).item<bool>());
}

TEST_CASE("conv2d with activation and residual is the sum of its parts, gradients included") {
  const auto wave = [](const mx::Shape& shape, float f) {
    int n = 1;
    for (const int d : shape) n *= d;
    return mx::reshape(mx::sin(mx::arange(0.0f, static_cast<float>(n)) * mx::array(f)), shape);
  };
  const auto x = wave({2, 5, 26, 24}, 0.7f), w = wave({6, 3, 3, 24}, 1.3f), b = wave({6}, 2.1f),
             r = wave({2, 5, 26, 6}, 0.3f);
  using Loss = std::function<mx::array(const std::vector<mx::array>&)>;
  for (const Activation kind : {Activation::kNone, Activation::kRelu, Activation::kGelu}) {
    const auto options = [kind](const std::vector<mx::array>& a) {
      return Conv2dOptions{.padding = {1, 1}, .bias = a[2], .activation = kind, .residual = a[3]};
    };
    const Loss fused = [&](const std::vector<mx::array>& a) {
      return mx::sum(mx::square(conv2d(a[0], a[1], options(a))));
    };
    const Loss parts = [&](const std::vector<mx::array>& a) {
      return mx::sum(mx::square(conv2d_composed(a[0], a[1], options(a))));
    };
    const std::vector<int> all{0, 1, 2, 3};
    const auto got = mx::value_and_grad(fused, all)({x, w, b, r});
    const auto want = mx::value_and_grad(parts, all)({x, w, b, r});
    CHECK(mx::allclose(got.first, want.first, 1e-4).item<bool>());
    for (size_t i = 0; i < 4; i++) CHECK(mx::allclose(got.second[i], want.second[i], 1e-3, 1e-2).item<bool>());
  }
  CHECK_THROWS_WITH_AS(conv2d(x, w, {.padding = {1, 1}, .residual = mx::ones({6})}),
                       "[conv2d] residual must have shape that of the result = {2, 5, 26, 6}; got {6}", Error);
}

TEST_CASE("conv2d of no images is no images") {
  const auto y = conv2d(mx::zeros({0, 4, 4, 2}), mx::ones({3, 3, 3, 2}), {.padding = {1, 1}});
  mx::eval(y);
  CHECK(y.shape() == mx::Shape{0, 4, 4, 3});
}

TEST_CASE("conv2d: a NaN reaches exactly the outputs that see it") {
  for (const int groups : {1, 4}) {
    auto x = mx::zeros({1, 5, 5, 4});
    const auto nan = mx::full({1, 1, 1, 4}, std::numeric_limits<float>::quiet_NaN());
    x = mx::slice_update(x, nan, mx::Shape{0, 0, 0, 0}, mx::Shape{1, 1, 1, 4});
    const auto y = conv2d(x, mx::ones({4, 3, 3, 4 / groups}), {.padding = {1, 1}, .groups = groups});
    const auto seen = mx::sum(mx::isnan(y)).item<int>();
    CHECK(seen == 4 * 4);  // 2 x 2 pixels
  }
}

TEST_CASE("conv2d refuses what does not fit with one sentence") {
  const auto x = mx::ones({1, 5, 6, 4}), w = mx::ones({8, 3, 3, 4});
  struct Row {
    mx::array x, weight;
    Conv2dOptions options;
    const char* says;
  };
  const std::vector<Row> rows = {
      {mx::ones({5, 6, 4}), w, {}, "x must have shape {B, H, W, C}; got {5, 6, 4}"},
      {x, mx::ones({8, 3, 4}), {}, "weight must have shape {O, kh, kw, C / groups}; got {8, 3, 4}"},
      {x, mx::ones({8, 3, 3, 2}), {}, "weight must have 4 values in its last axis"},
      {x, w, {.groups = 0}, "groups must be at least 1; got 0"},
      {x, w, {.groups = 3}, "groups must divide the channels, 4 in and 8 out; got 3"},
      {x, w, {.stride = {0, 1}}, "stride over height must be at least 1; got 0"},
      {x, w, {.padding = {0, -1}}, "padding over width must not be negative; got -1"},
      {x, w, {.dilation = {1, 0}}, "dilation over width must be at least 1; got 0"},
      {x, w, {.dilation = {3, 1}}, "the padded height must be at least the kernel's reach, 7; got 5"},
      {x, w, {.bias = mx::ones({4})}, "bias must have shape {O} = {8}; got {4}"},
      {mx::ones({1, 5, 6, 4}, mx::int32), w, {}, "x must be a real floating-point array; got int32"},
  };
  for (const Row& row : rows) {
    CAPTURE(row.says);
    std::string message;
    try {
      conv2d(row.x, row.weight, row.options);
    } catch (const Error& e) {
      message = e.what();
    }
    CHECK(message.find(std::string("[conv2d] ") + row.says) != std::string::npos);
  }
}
