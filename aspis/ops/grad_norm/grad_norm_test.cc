#include "aspis/ops/grad_norm/grad_norm.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <cmath>
#include <limits>

#include "aspis/base/error.h"

using namespace aspis;
namespace mx = mlx::core;

TEST_CASE("global norm joins arrays of any shape, dtype and layout") {
  CHECK(global_norm({mx::array({3.0f, 0.0f}), mx::array({{4.0f}})}).item<float>() == 5.0f);
  CHECK(global_norm({mx::array(3.0f), mx::astype(mx::array(4.0f), mx::bfloat16)}).item<float>() == 5.0f);
  CHECK(global_norm({mx::full({4}, 0.5, mx::float64), mx::array(0.0f)}).item<float>() == 1.0f);
  const auto x = mx::reshape(mx::arange(0.0f, 12.0f, 1.0f), {3, 4});
  const auto part = mx::slice(mx::transpose(x), {0, 0}, {4, 3}, {2, 1});  // columns 0 and 2
  CHECK(global_norm({part}).item<float>() == doctest::Approx(std::sqrt(16. + 64 + 4 + 36 + 100)));
  CHECK(global_norm({mx::broadcast_to(mx::array(2.0f), {5, 5})}).item<float>() == 10.0f);
}

TEST_CASE("global norm of nothing is zero") {
  CHECK(global_norm({}).item<float>() == 0);
  CHECK(global_norm({mx::zeros({0, 3})}).item<float>() == 0);
}

TEST_CASE("global norm does not overflow on large floats and is not finite for NaN and infinity") {
  CHECK(global_norm({mx::array({3e30f, 4e30f})}).item<float>() == doctest::Approx(5e30f));
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    for (const int at : {0, 20, 32}) {
      std::vector<float> x(33, 1.0f);
      x[at] = bad;
      CHECK_FALSE(std::isfinite(global_norm({mx::array(1.0f), mx::array(x.data(), {33})}).item<float>()));
    }
  }
}

TEST_CASE("global norm refuses integers with one sentence") {
  CHECK_THROWS_WITH_AS(global_norm({mx::array(1)}),
                       "[global_norm] each array must be a real floating-point array; got int32", Error);
}
