#include "aspis/ops/cross_entropy/cross_entropy.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <cmath>

#include "aspis/base/error.h"
#include "aspis/ops/cross_entropy/cross_entropy_cases.h"
#include "aspis/ops/harness/harness_doctest.h"

using namespace aspis;
namespace mx = mlx::core;

TEST_CASE("cross_entropy conforms on every instruction set") { harness::expect_conforms(cross_entropy_entry()); }

TEST_CASE("cross_entropy of equal logits is the logarithm of the number of classes") {
  const auto x = mx::full({4, 10}, 3.0f);
  const auto t = mx::array({0, 3, 9, 5});
  CHECK(cross_entropy(x, t).item<float>() == doctest::Approx(std::log(10.0)));
  CHECK(cross_entropy(x, mx::astype(t, mx::uint8)).item<float>() == doctest::Approx(std::log(10.0)));
  CHECK(cross_entropy(x, mx::full({4, 10}, 0.1f)).item<float>() == doctest::Approx(std::log(10.0)));
}

TEST_CASE("cross_entropy matches values worked out by hand") {
  // softmax of (0, log 2, log 5) is (1, 2, 5) / 8.
  const auto x = mx::array({0.0f, std::log(2.0f), std::log(5.0f), std::log(5.0f), 0.0f, std::log(2.0f)}, {2, 3});
  const auto t = mx::array({1, 1});
  const double a = std::log(4.0), b = std::log(8.0), c = std::log(1.6);
  CHECK(cross_entropy(x, t).item<float>() == doctest::Approx((a + b) / 2));
  CrossEntropyOptions o;
  o.reduction = Reduction::kSum;
  o.label_smoothing = 0.3;
  CHECK(cross_entropy(x, t, o).item<float>() == doctest::Approx(0.7 * (a + b) + 0.2 * (a + b + c)));
}

TEST_CASE("cross_entropy leaves ignored samples out of the mean and gives NaN for wrong labels") {
  const auto x = mx::array({0.0f, 1.0f, 2.0f, 5.0f, -1.0f, 0.5f}, {3, 2});
  const auto first = mx::slice(x, {0, 0}, {1, 2});
  CHECK(cross_entropy(x, mx::array({1, -100, -100})).item<float>() ==
        cross_entropy(first, mx::array({1})).item<float>());
  CHECK(std::isnan(cross_entropy(x, mx::array({-100, -100, -100})).item<float>()));
  CHECK(std::isnan(cross_entropy(x, mx::array({0, 1, 2})).item<float>()));
  // A label that only fits after its upper bits are cut off is wrong, too.
  CHECK(std::isnan(cross_entropy(first, mx::full({1}, int64_t{1} << 32, mx::int64)).item<float>()));
  CrossEntropyOptions o;
  o.reduction = Reduction::kNone;
  const auto labels = mx::array({0, 7, -100});
  const auto loss = cross_entropy(x, labels, o), same = cross_entropy_composed(x, labels, o);
  CHECK(mx::allclose(loss, same, 1e-6, 1e-6, true).item<bool>());
}

TEST_CASE("cross_entropy has a gradient for weights and none for labels") {
  const auto x = mx::array({0.0f, 1.0f}, {1, 2});
  const auto f = [](const std::vector<mx::array>& in) { return cross_entropy(in[0], in[1]); };
  const auto g = mx::grad(f, {0, 1})({x, mx::array({0.25f, 0.75f}, {1, 2})});
  CHECK(mx::sum(g[0]).item<float>() == doctest::Approx(0).epsilon(1e-6));
  CHECK(mx::sum(g[1]).item<float>() == doctest::Approx(2 * std::log(1 + std::exp(1.0)) - 1));
}

TEST_CASE("cross_entropy takes narrow logits and no samples at all") {
  const auto x = mx::array({0.0f, 1.0f, 2.0f}, {1, 3});
  auto y = cross_entropy(mx::astype(x, mx::bfloat16), mx::array({2}));
  CHECK(y.dtype() == mx::float32);
  CHECK(y.item<float>() == cross_entropy(x, mx::array({2})).item<float>());
  CHECK(std::isnan(cross_entropy(mx::zeros({0, 3}), mx::zeros({0}, mx::int32)).item<float>()));
  CrossEntropyOptions o;
  o.reduction = Reduction::kNone;
  CHECK(cross_entropy(mx::zeros({0, 3}), mx::zeros({0}, mx::int32), o).shape() == mx::Shape{0});
}

TEST_CASE("cross_entropy refuses what does not fit with one sentence") {
  const auto x = mx::zeros({2, 3}), labels = mx::array({0, 1});
  CHECK_THROWS_WITH_AS(cross_entropy(mx::zeros({3}), labels),
                       "[cross_entropy] logits must have shape {N, C} with at least one class; got {3}", Error);
  CHECK_THROWS_WITH_AS(cross_entropy(x, mx::array({0, 1, 2})),
                       "[cross_entropy] targets must have shape {N} = {2}; got {3}", Error);
  CHECK_THROWS_WITH_AS(cross_entropy(x, mx::zeros({2})),
                       "[cross_entropy] targets must have shape {N, C} = {2, 3}; got {2}", Error);
  CHECK_THROWS_WITH_AS(cross_entropy(x, mx::zeros({2}, mx::bool_)),
                       "[cross_entropy] targets must be integer labels or floating-point weights; got bool", Error);
  CrossEntropyOptions o;
  o.label_smoothing = 1.5;
  CHECK_THROWS_WITH_AS(cross_entropy(x, labels, o),
                       "[cross_entropy] label_smoothing must be in [0, 1]; got 1.500000", Error);
}
