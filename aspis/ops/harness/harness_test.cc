#include "aspis/ops/harness/harness.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <string>

namespace aspis::harness {
namespace {

// y = 2 x with a mistake that a test should see.
enum class Mistake { kNone, kValue, kGradient, kNan };

OpInstance doubled(Mistake mistake) {
  OpCase plain;
  plain.name = "3x4";
  plain.uses = kCheck | kGrad;
  plain.inputs = {{"x", {3, 4}}};
  plain.reference = [](const Tensors& in) {
    Tensor y = in[0];
    for (double& v : y.data) v *= 2;
    return Tensors{y};
  };
  const auto op = [mistake](const Arrays& in) -> Arrays {
    const mx::array two(2, in[0].dtype());
    if (mistake == Mistake::kValue) return {in[0] * (two + mx::array(1e-4, in[0].dtype()))};
    if (mistake == Mistake::kNan) return {mx::where(in[0] > mx::array(1, in[0].dtype()), in[0] / mx::array(0, in[0].dtype()), in[0] * two)};
    if (mistake == Mistake::kGradient) {
      const auto wrong = mx::custom_vjp(
          [](const Arrays& a) { return Arrays{a[0] * mx::array(2, a[0].dtype())}; },
          [](const Arrays&, const Arrays& g, const Arrays&) { return Arrays{g[0] * mx::array(2.001, g[0].dtype())}; });
      return wrong({in[0]});
    }
    return {in[0] * two};
  };
  return {plain, op, {}};
}

CheckResult check(Mistake mistake) {
  const OpEntry entry{"doubled", "", {"cpu"}, true, false, {}};
  return check_case(entry, doubled(mistake));
}

}  // namespace

TEST_CASE("a right operator passes and its errors are reported") {
  const CheckResult r = check(Mistake::kNone);
  CHECK_MESSAGE(r.passed, r.message);
  CHECK(r.single.forward >= 0);
  CHECK(r.single.gradient >= 0);
  CHECK(r.wide.gradient >= 0);
  CHECK(r.composed.forward < 0);
}

TEST_CASE("wrong values, gradients and NaN are each found and named") {
  const auto expect = [](Mistake mistake, const std::string& text) {
    const CheckResult r = check(mistake);
    CHECK_FALSE(r.passed);
    CHECK_MESSAGE(r.message.find(text) != std::string::npos, r.message);
  };
  expect(Mistake::kValue, "float32 forward against the oracle, output 0: error 4.99e-05 is above 2e-06");
  expect(Mistake::kGradient, "gradient of x against finite differences");
  expect(Mistake::kNan, "error inf");
}

}  // namespace aspis::harness
