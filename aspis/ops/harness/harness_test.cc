#include "aspis/ops/harness/harness.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <stdexcept>
#include <string>

namespace aspis::harness {
namespace {

// y = 2 x with a mistake that a test should see.
enum class Mistake { kNone, kValue, kGradient, kNan, kHalf, kThrow };

OpInstance doubled(Mistake mistake, unsigned uses = kCheck | kGrad) {
  OpCase plain;
  plain.name = "3x4";
  plain.uses = uses;
  plain.inputs = {{"x", {3, 4}}};
  plain.reference = [](const Tensors& in) {
    Tensor y = in[0];
    for (double& v : y.data) v *= 2;
    return Tensors{y};
  };
  const auto op = [mistake](const Arrays& in) -> Arrays {
    const mx::array two(2, in[0].dtype());
    if (mistake == Mistake::kThrow) throw std::runtime_error("no such thing");
    if (mistake == Mistake::kValue) return {in[0] * (two + mx::array(1e-4, in[0].dtype()))};
    if (mistake == Mistake::kHalf && in[0].dtype() == mx::float16) return {in[0] * mx::array(2.01f, mx::float16)};
    if (mistake == Mistake::kNan)
      return {mx::where(in[0] > mx::array(1, in[0].dtype()), in[0] / mx::array(0, in[0].dtype()), in[0] * two)};
    if (mistake == Mistake::kGradient) {
      const auto wrong = mx::custom_vjp([](const Arrays& a) { return Arrays{a[0] * mx::array(2, a[0].dtype())}; },
                                        [](const Arrays&, const Arrays& g, const Arrays&) {
                                          return Arrays{g[0] * mx::array(2.001, g[0].dtype())};
                                        });
      return wrong({in[0]});
    }
    return {in[0] * two};
  };
  return {plain, op, {}};
}

CheckResult check(Mistake mistake, unsigned uses = kCheck | kGrad, bool half = false) {
  const OpEntry entry{"doubled", "", {"cpu"}, true, false, {}};
  return check_case(entry, doubled(mistake, uses), {.half = half});
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
  expect(Mistake::kThrow, "it threw: no such thing");
}

TEST_CASE("a grid case finds a wrong gradient along one direction") {
  const CheckResult right = check(Mistake::kNone, kCheck | kGrid);
  CHECK_MESSAGE(right.passed, right.message);
  CHECK(right.wide.gradient >= 0);
  const CheckResult wrong = check(Mistake::kGradient, kCheck | kGrid);
  CHECK_FALSE(wrong.passed);
  CHECK_MESSAGE(wrong.message.find("gradient of x along a direction against the oracle") == 0, wrong.message);
}

TEST_CASE("low precision is held to twice the rounding of a result") {
  const CheckResult right = check(Mistake::kNone, kCheck, true);
  CHECK_MESSAGE(right.passed, right.message);
  CHECK(right.bfloat16.forward == 0);  // twice a bfloat16 number is one
  CHECK(right.float16.gradient == 0);
  CHECK(check(Mistake::kNone).bfloat16.forward < 0);
  const CheckResult wrong = check(Mistake::kHalf, kCheck, true);
  CHECK_FALSE(wrong.passed);
  CHECK_MESSAGE(wrong.message.find("float16 forward against the oracle, output 0") == 0, wrong.message);
}

}  // namespace aspis::harness
