#include "aspis/ops/softmax/softmax.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <cmath>

#include "aspis/base/error.h"
#include "aspis/ops/harness/bf16.h"
#include "aspis/ops/harness/harness_doctest.h"
#include "aspis/ops/softmax/softmax_cases.h"

using namespace aspis;
namespace mx = mlx::core;

TEST_CASE("softmax conforms on every instruction set") { harness::expect_conforms(softmax_entry()); }
TEST_CASE("log_softmax conforms on every instruction set") { harness::expect_conforms(log_softmax_entry()); }
TEST_CASE("softmax and log_softmax keep bfloat16 in their kernels") {
  harness::expect_bf16_conforms(softmax_entry());
  // The gradient starts from the rounded result: at -11 (70,001 classes) half a unit
  // is 2^-5 of the probability.
  harness::expect_bf16_conforms(log_softmax_entry(), 1.0 / 256, true, 1.0 / 32);
}

TEST_CASE("log_softmax is exact far from zero, and where softmax is zero") {
  const auto x = mx::array({1e4f, 1e4f - 200, -INFINITY}, {1, 3});
  const auto y = log_softmax(x);
  CHECK(mx::array_equal(y, mx::array({0.f, -200.f, -INFINITY}, {1, 3})).item<bool>());
  const auto g = mx::grad([](const mx::array& v) {
    return mx::sum(mx::slice(log_softmax(v), {0, 0}, {1, 2}));
  })(x);
  CHECK(mx::array_equal(g, mx::array({-1.f, 1.f, 0.f}, {1, 3})).item<bool>());
  CHECK(mx::all(mx::isnan(log_softmax(mx::array({1.f, NAN, 2.f})))).item<bool>());
}

TEST_CASE("softmax rows sum to one whatever the offset") {
  const auto x = mx::array({1e4f, 1e4f + 1, 1e4f + 2, -1e4f}, {1, 4});
  const auto y = aspis::softmax(x);
  CHECK(mx::sum(y).item<float>() == doctest::Approx(1.0f));
  CHECK(mx::max(y).item<float>() == doctest::Approx(0.66524096f));
}

TEST_CASE("softmax keeps shape and dtype, empty arrays included") {
  CHECK(aspis::softmax(mx::zeros({0, 3})).shape() == mx::Shape{0, 3});
  CHECK(aspis::softmax(mx::zeros({3, 0})).shape() == mx::Shape{3, 0});
  mx::eval(aspis::softmax(mx::zeros({3, 0})));
  CHECK(aspis::softmax(mx::zeros({2, 2}, mx::bfloat16)).dtype() == mx::bfloat16);
}

TEST_CASE("softmax refuses integers and scalars with one sentence") {
  CHECK_THROWS_WITH_AS(aspis::softmax(mx::zeros({2}, mx::int32)),
                       "[softmax] x must be a real floating-point array; got int32", Error);
  CHECK_THROWS_WITH_AS(aspis::softmax(mx::array(1.0f)), "[softmax] x must have at least one axis; got a scalar",
                       Error);
}
