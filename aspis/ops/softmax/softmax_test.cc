#include "aspis/ops/softmax/softmax.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include "aspis/base/error.h"
#include "aspis/ops/harness/harness_doctest.h"
#include "aspis/ops/softmax/softmax_cases.h"

using namespace aspis;
namespace mx = mlx::core;

TEST_CASE("softmax conforms on every instruction set") { harness::expect_conforms(softmax_entry()); }

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
  CHECK_THROWS_WITH_AS(aspis::softmax(mx::array(1.0f)), "[softmax] x must have at least one axis; got a scalar", Error);
}
