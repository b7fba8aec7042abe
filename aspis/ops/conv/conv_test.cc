#include "aspis/ops/conv/conv.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <limits>
#include <string>

#include "aspis/base/error.h"
#include "aspis/ops/conv/conv_cases.h"
#include "aspis/ops/harness/harness_doctest.h"

using namespace aspis;

TEST_CASE("conv2d conforms on every instruction set") { harness::expect_conforms(conv2d_entry()); }
TEST_CASE("conv3d conforms on every instruction set") { harness::expect_conforms(conv3d_entry()); }

TEST_CASE("conv2d gives only the gradients asked for") {
  const auto x = mx::ones({2, 4, 4, 3}), w = mx::ones({5, 3, 3, 3}), b = mx::zeros({5});
  const auto loss = [](const std::vector<mx::array>& a) { return mx::sum(conv2d(a[0], a[1], {.bias = a[2]})); };
  const auto bias = mx::grad(loss, std::vector<int>{2})({x, w, b});
  CHECK(mx::array_equal(bias[0], mx::full({5}, 8.f)).item<bool>());
  const auto weight = mx::grad(loss, std::vector<int>{1})({x, w, b});
  CHECK(mx::array_equal(weight[0], mx::full({5, 3, 3, 3}, 8.f)).item<bool>());
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
