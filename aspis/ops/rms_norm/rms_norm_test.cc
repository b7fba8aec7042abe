#include "aspis/ops/rms_norm/rms_norm.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include "aspis/base/error.h"
#include "aspis/ops/harness/bf16.h"
#include "aspis/ops/harness/harness_doctest.h"
#include "aspis/ops/rms_norm/rms_norm_cases.h"

using namespace aspis;
namespace mx = mlx::core;

TEST_CASE("rms_norm conforms on every instruction set") { harness::expect_conforms(rms_norm_entry()); }

TEST_CASE("rms_norm keeps bfloat16 in its kernel") { harness::expect_bf16_conforms(rms_norm_entry()); }

TEST_CASE("rms_norm of a row of zeros is zero with a finite gradient") {
  const auto x = mx::zeros({2, 8});
  const auto g = mx::grad([](const mx::array& v) { return mx::sum(rms_norm(v, std::nullopt)); })(x);
  CHECK(mx::all(mx::equal(rms_norm(x, std::nullopt), mx::array(0.0f))).item<bool>());
  CHECK(mx::all(mx::isfinite(g)).item<bool>());
}

TEST_CASE("add_rms_norm passes the gradient of an unused result as zero") {
  const auto x = mx::array({1.0f, 2.0f, 3.0f, 4.0f}, {2, 2}), r = mx::ones({2, 2});
  const auto through_sum =
      mx::grad([&](const mx::array& v) { return mx::sum(add_rms_norm(v, r, std::nullopt).second); })(x);
  CHECK(mx::all(mx::equal(through_sum, mx::array(1.0f))).item<bool>());
  const auto through_norm =
      mx::grad([&](const mx::array& v) { return mx::sum(add_rms_norm(v, r, std::nullopt).first); })(x);
  const auto want =
      mx::grad([&](const mx::array& v) { return mx::sum(rms_norm_composed(mx::add(v, r), std::nullopt)); })(x);
  CHECK(mx::allclose(through_norm, want, 1e-5, 1e-6).item<bool>());
}

TEST_CASE("rms_norm keeps shape and dtype, empty arrays included") {
  CHECK(rms_norm(mx::zeros({0, 3}), mx::ones({3})).shape() == mx::Shape{0, 3});
  mx::eval(rms_norm(mx::zeros({0, 3}), mx::ones({3})));
  // The gradient of the weight over no rows is zero.
  const auto g = mx::grad([](const mx::array& w) {
    return mx::sum(rms_norm(mx::zeros({0, 3}), w));
  })(mx::ones({3}));
  CHECK(mx::all(mx::equal(g, mx::array(0.0f))).item<bool>());
  const auto half = mx::ones({2, 4}, mx::bfloat16);
  CHECK(rms_norm(half, mx::ones({4})).dtype() == mx::bfloat16);
  CHECK(add_rms_norm(half, half, mx::ones({4})).second.dtype() == mx::bfloat16);
}

TEST_CASE("rms_norm refuses wrong arguments with one sentence") {
  const auto x = mx::zeros({2, 4});
  CHECK_THROWS_WITH_AS(rms_norm(x, mx::ones({3})), "[rms_norm] weight must have shape {N} = {4}; got {3}", Error);
  CHECK_THROWS_WITH_AS(rms_norm(mx::zeros({2, 4}, mx::int32), std::nullopt),
                       "[rms_norm] x must be a real floating-point array; got int32", Error);
  CHECK_THROWS_WITH_AS(add_rms_norm(x, mx::zeros({4}), std::nullopt),
                       "[add_rms_norm] residual must have shape of x = {2, 4}; got {4}", Error);
  CHECK_THROWS_AS(rms_norm(x, std::nullopt, -1.0f), Error);
  CHECK_THROWS_AS(rms_norm(mx::array(1.0f), std::nullopt), Error);
}
