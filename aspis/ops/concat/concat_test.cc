#include "aspis/ops/concat/concat.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include "aspis/base/error.h"

using namespace aspis;

TEST_CASE("concat is MLX's for every axis, dtype and layout") {
  for (const auto dtype : {mx::float32, mx::float64, mx::bfloat16, mx::int32, mx::uint8}) {
    const auto whole = mx::astype(mx::reshape(mx::arange(0, 210, mx::int32), {5, 6, 7}), dtype);
    for (int axis = -3; axis < 3; axis++) {
      CAPTURE(axis);
      // A slice, a transposed array and a broadcast one.
      const auto a = mx::slice(whole, {1, 1, 1}, {5, 5, 5});
      const auto b = mx::transpose(mx::contiguous(mx::transpose(a)));
      const auto c = mx::broadcast_to(mx::slice(a, {0, 0, 0}, {1, 4, 1}), {4, 4, 4});
      CHECK(mx::array_equal(concat({a, b, c, a}, axis), mx::concatenate({a, b, c, a}, axis)).item<bool>());
    }
  }
  CHECK(concat({mx::zeros({2, 0}), mx::zeros({2, 3})}, 1).shape() == mx::Shape{2, 3});
  CHECK(concat({mx::zeros({0, 2}), mx::zeros({0, 3})}, 1).shape() == mx::Shape{0, 5});
}

TEST_CASE("the gradient of concat is its parts") {
  const auto a = mx::ones({2, 3}), b = mx::ones({2, 2}),
             w = mx::reshape(mx::arange(0.0, 10.0, mx::float32), {2, 5});
  const auto g = mx::grad(
      [&](const std::vector<mx::array>& in) {
        return mx::sum(mx::multiply(concat({in[0], in[1]}, 1), w));
      },
      std::vector<int>{0, 1})({a, b});
  CHECK(mx::array_equal(g[0], mx::slice(w, {0, 0}, {2, 3})).item<bool>());
  CHECK(mx::array_equal(g[1], mx::slice(w, {0, 3}, {2, 5})).item<bool>());
}

TEST_CASE("concat refuses arrays that do not fit with one sentence") {
  CHECK_THROWS_WITH_AS(concat({}, 0), "[concat] at least one array is needed; got none", Error);
  CHECK_THROWS_WITH_AS(
      concat({mx::zeros({2, 3}), mx::zeros({3, 3})}, 1),
      "[concat] arrays[1] must have the dtype and, but along axis 1, the shape of arrays[0], float32 "
      "{2, 3}; got float32 {3, 3}",
      Error);
  CHECK_THROWS_AS(concat({mx::zeros({2}), mx::zeros({2}, mx::int32)}, 0), Error);
  CHECK_THROWS_AS(concat({mx::zeros({2})}, 1), Error);
}
