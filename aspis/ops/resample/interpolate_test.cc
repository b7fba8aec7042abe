#include "aspis/ops/resample/interpolate.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>

#include "aspis/base/error.h"
#include "aspis/ops/harness/bf16.h"
#include "aspis/ops/harness/harness_doctest.h"
#include "aspis/ops/resample/interpolate_cases.h"

using namespace aspis;

TEST_CASE("interpolate conforms on every instruction set") { harness::expect_conforms(interpolate_entry()); }
TEST_CASE("interpolate keeps bfloat16 in its kernel") { harness::expect_bf16_conforms(interpolate_entry()); }

TEST_CASE("interpolate to the same size changes nothing") {
  const auto x = mx::reshape(mx::arange(0.0, 60.0, mx::float32), {1, 4, 5, 3});
  for (const auto mode : {Interpolation::kNearest, Interpolation::kLinear, Interpolation::kCubic}) {
    CHECK(mx::array_equal(interpolate(x, {4, 5}, {.mode = mode}), x).item<bool>());
  }
  CHECK(interpolate(mx::zeros({0, 4, 5, 3}), {2, 2}).shape() == mx::Shape{0, 2, 2, 3});
  CHECK(interpolate(mx::astype(x, mx::float16), {2, 2}).dtype() == mx::float16);
}

TEST_CASE("interpolate refuses what it cannot take with one sentence") {
  const auto x = mx::zeros({1, 4, 4, 2});
  CHECK_THROWS_WITH_AS(interpolate(x, {3}), "[interpolate] 2 sizes are needed; got 1", Error);
  CHECK_THROWS_WITH_AS(interpolate(x, {3, 0}), "[interpolate] every size must be 1 or more; got 0", Error);
  CHECK_THROWS_WITH_AS(interpolate(x, {3, 3}, {.align_corners = true}),
                       "[interpolate] align_corners and antialias belong to linear and cubic; got nearest", Error);
  CHECK_THROWS_AS(interpolate(x, {3, 3}, {.scale = {2.0}}), Error);
  CHECK_THROWS_AS(interpolate(mx::zeros({4, 4}), {3}), Error);
  CHECK_THROWS_AS(interpolate(mx::zeros({1, 4, 4, 2}, mx::int32), {3, 3}), Error);
}
