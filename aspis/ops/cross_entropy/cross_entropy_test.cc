#include "aspis/ops/cross_entropy/cross_entropy.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <cmath>

#include "aspis/base/error.h"
#include "aspis/ops/cross_entropy/cross_entropy_cases.h"
#include "aspis/ops/harness/bf16.h"
#include "aspis/ops/harness/harness_doctest.h"

using namespace aspis;
namespace mx = mlx::core;

TEST_CASE("cross_entropy conforms on every instruction set") { harness::expect_conforms(cross_entropy_entry()); }
TEST_CASE("cross_entropy reads and writes bfloat16 in its kernel; the loss is float32") {
  harness::expect_bf16_conforms(cross_entropy_entry(), 1.0 / 256, false);
}

TEST_CASE("cross_entropy leaves ignored rows out of the mean and gives them no gradient") {
  const auto x = mx::array({1.f, 2.f, 5.f, 5.f, 0.f, 0.f}, {3, 2});
  const auto labels = mx::array({0, -100, 1});
  const auto kept = mx::array({1.f, 2.f, 0.f, 0.f}, {2, 2});
  const auto kept_labels = mx::array({0, 1});
  CHECK(cross_entropy(x, labels).item<float>() == cross_entropy(kept, kept_labels).item<float>());
  for (const bool composed : {false, true}) {
    const auto loss = [&](const mx::array& a) {
      return composed ? cross_entropy_composed(a, labels) : cross_entropy(a, labels);
    };
    const auto g = mx::grad(loss)(x);
    CHECK(mx::array_equal(mx::slice(g, {1, 0}, {2, 2}), mx::zeros({1, 2})).item<bool>());
    CHECK(mx::slice(g, {2, 1}, {3, 2}).item<float>() == doctest::Approx(-0.25));
  }
  CHECK(std::isnan(cross_entropy(x, mx::full({3}, -100)).item<float>()));
}

TEST_CASE("cross_entropy gives NaN for a label that is no class, composed or not") {
  const auto x = mx::zeros({2, 3});
  for (const int bad : {-1, 3}) {
    const auto labels = mx::array({1, bad});
    CrossEntropyOptions options;
    CHECK(std::isnan(cross_entropy(x, labels).item<float>()));
    CHECK(std::isnan(cross_entropy_composed(x, labels).item<float>()));
    options.reduction = Reduction::kNone;
    CHECK(mx::slice(cross_entropy(x, labels, options), {0}, {1}).item<float>() == doctest::Approx(std::log(3.0)));
  }
}

TEST_CASE("cross_entropy takes labels of any integer type and half logits") {
  const auto x = mx::astype(mx::zeros({2, 4}), mx::bfloat16);
  for (const auto dtype : {mx::uint8, mx::int64, mx::uint32}) {
    CHECK(cross_entropy(x, mx::astype(mx::array({1, 2}), dtype)).item<float>() == doctest::Approx(std::log(4.0)));
  }
}

TEST_CASE("cross_entropy refuses what does not fit with one sentence") {
  const auto x = mx::zeros({2, 4});
  CHECK_THROWS_WITH_AS(cross_entropy(x, mx::array({1, 2, 3})),
                       "[cross_entropy] targets must have shape {N} = {2}; got {3}", Error);
  CHECK_THROWS_WITH_AS(cross_entropy(x, mx::zeros({2})),
                       "[cross_entropy] soft targets must have shape {N, C} = {2, 4}; got {2}", Error);
  CHECK_THROWS_WITH_AS(cross_entropy(mx::zeros({4}), mx::array({1})),
                       "[cross_entropy] logits must have shape {N, C}; got {4}", Error);
  CHECK_THROWS_WITH_AS(cross_entropy(x, mx::array({true, false})),
                       "[cross_entropy] targets must be integers {N} or floating-point weights {N, C}; got bool",
                       Error);
  CrossEntropyOptions options;
  options.label_smoothing = NAN;
  CHECK_THROWS_AS(cross_entropy(x, mx::array({1, 2}), options), Error);
}
