#include "aspis/ops/silu/silu.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>

#include "aspis/base/error.h"
#include "aspis/ops/harness/bf16.h"
#include "aspis/ops/harness/harness_doctest.h"
#include "aspis/ops/silu/silu_cases.h"

using namespace aspis;
namespace mx = mlx::core;

TEST_CASE("silu conforms on every instruction set") { harness::expect_conforms(silu_entry()); }
TEST_CASE("silu keeps bfloat16 in its kernel") { harness::expect_bf16_conforms(silu_entry()); }

TEST_CASE("silu keeps shape and dtype, empty and scalar arrays included") {
  CHECK(silu(mx::zeros({0, 3})).shape() == mx::Shape{0, 3});
  CHECK(silu(mx::array(1.0f)).item<float>() == doctest::Approx(0.7310585786f));
  CHECK(silu(mx::astype(mx::array(1.0f), mx::bfloat16)).dtype() == mx::bfloat16);
}

TEST_CASE("silu refuses integers with one sentence") {
  CHECK_THROWS_WITH_AS(silu(mx::zeros({2}, mx::int32)), "[silu] x must be a real floating-point array; got int32",
                       Error);
}
