#include "aspis/ops/grad_norm/grad_norm.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>

#include <cmath>

#include "aspis/base/error.h"
#include "aspis/ops/grad_norm/grad_norm_cases.h"
#include "aspis/ops/harness/harness_doctest.h"
#include "aspis/simd/isa.h"

using namespace aspis;
namespace mx = mlx::core;

TEST_CASE("grad_norm conforms on every instruction set") { harness::expect_conforms(grad_norm_entry()); }

TEST_CASE("global_norm takes empty lists, scalars, half and mixed dtypes") {
  CHECK(global_norm({}).item<float>() == 0);
  CHECK(global_norm({mx::zeros({0, 3})}).item<float>() == 0);
  auto norm = global_norm({mx::array(2.0f), mx::astype(mx::array({2.f, 2.f}), mx::bfloat16),
                           mx::astype(mx::array({2.f}), mx::float64)});
  CHECK(norm.item<float>() == 4);
  CHECK(norm.dtype() == mx::float32);
}

TEST_CASE("global_norm of bfloat16 is that of the same values in float32 on every instruction set") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (const int n : {1, 15, 64, 1003, 70001}) {
      const auto half = mx::astype(mx::sin(mx::arange(n, mx::float32)), mx::bfloat16);
      const auto wide = mx::astype(half, mx::float32);
      auto got = global_norm({half, wide, half}), want = global_norm({wide, wide, wide});
      CHECK(got.item<float>() == want.item<float>());
    }
  }
  force_isa("");
}

TEST_CASE("global_norm is not finite exactly when an element is not") {
  CHECK(std::isnan(global_norm({mx::ones({3}), mx::array({1.f, NAN})}).item<float>()));
  CHECK(std::isinf(global_norm({mx::ones({3}), mx::array({1.f, -INFINITY})}).item<float>()));
  CHECK(std::isfinite(global_norm({mx::array({3e37f, 3e37f})}).item<float>()));
}

TEST_CASE("global_norm refuses integers with one sentence") {
  CHECK_THROWS_WITH_AS(global_norm({mx::zeros({2}, mx::int32)}),
                       "[global_norm] every array must be a real floating-point array; got int32", Error);
}
