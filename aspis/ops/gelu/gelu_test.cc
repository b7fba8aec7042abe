#include "aspis/ops/gelu/gelu.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>

#include "aspis/base/error.h"
#include "aspis/ops/gelu/gelu_cases.h"
#include "aspis/ops/harness/bf16.h"
#include "aspis/ops/harness/harness_doctest.h"

using namespace aspis;
namespace mx = mlx::core;

TEST_CASE("gelu conforms on every instruction set") { harness::expect_conforms(gelu_entry()); }
TEST_CASE("gelu keeps bfloat16 in its kernel") { harness::expect_bf16_conforms(gelu_entry()); }

TEST_CASE("gelu gives the published values of both forms") {
  // torch.nn.functional.gelu(1) and the tanh form, 12 digits.
  CHECK(gelu(mx::array(1.0, mx::float64)).item<double>() == doctest::Approx(0.841344746069).epsilon(1e-12));
  CHECK(gelu(mx::array(1.0, mx::float64), true).item<double>() == doctest::Approx(0.841191990608).epsilon(1e-12));
}

TEST_CASE("gelu keeps shape and dtype, empty and scalar arrays included") {
  CHECK(gelu(mx::zeros({0, 3})).shape() == mx::Shape{0, 3});
  CHECK(gelu(mx::array(1.0f)).item<float>() == doctest::Approx(0.8413447460685429f));
  CHECK(gelu(mx::astype(mx::array(1.0f), mx::float16)).dtype() == mx::float16);
}

TEST_CASE("gelu refuses integers with one sentence") {
  CHECK_THROWS_WITH_AS(gelu(mx::zeros({2}, mx::int32)), "[gelu] x must be a real floating-point array; got int32",
                       Error);
}
