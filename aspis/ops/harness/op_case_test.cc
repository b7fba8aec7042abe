#include "aspis/ops/harness/op_case.h"

#include <doctest/doctest.h>

#include <cmath>
#include <set>

#include "aspis/ops/harness/bounds.h"

using namespace aspis::harness;

namespace {

OpCase square_case() {
  OpCase c;
  c.name = "square";
  c.inputs = {{"x", {2, 3}}};
  c.reference = [](const Tensors& in) {
    Tensor y = in[0];
    for (double& v : y.data) v *= v;
    return Tensors{y};
  };
  return c;
}

}  // namespace

TEST_CASE("numeric gradient of a square is twice the input times the weight") {
  const OpCase c = square_case();
  const Tensors in = make_inputs(c, 3, false);
  const Tensors weights = {{{2, 3}, {1, -2, 3, 0, 0.5, 7}}};
  const Tensor g = numeric_gradient(c, in, weights, 0);
  for (int i = 0; i < 6; i++)
    CHECK(g.data[i] == doctest::Approx(2 * in[0].data[i] * weights[0].data[i]).epsilon(1e-6));
}

TEST_CASE("a directional derivative is the sum of gradient times direction") {
  const OpCase c = square_case();
  const Tensors in = make_inputs(c, 3, false), weights = {{{2, 3}, {1, -2, 3, 0, 0.5, 7}}},
                along = {{{2, 3}, {0.5, 1, -1, 2, 0, 1}}};
  double want = 0;
  for (int i = 0; i < 6; i++) want += 2 * in[0].data[i] * weights[0].data[i] * along[0].data[i];
  CHECK(directional_derivative(c, in, weights, along) == doctest::Approx(want).epsilon(1e-7));
}

TEST_CASE("normalized error sees sizes, NaN and infinities") {
  const Tensor want{{3}, {1, NAN, -INFINITY}};
  CHECK(normalized_error({{3}, {1, NAN, -INFINITY}}, want) == 0);
  CHECK(std::isinf(normalized_error({{3}, {1, 2, -INFINITY}}, want)));
  CHECK(std::isinf(normalized_error({{3}, {1, NAN, INFINITY}}, want)));
  CHECK(std::isinf(normalized_error({{2}, {1, NAN}}, want)));
  CHECK(normalized_error({{2}, {1.5, 4}}, {{2}, {1, 4}}) == doctest::Approx(0.125));
}

TEST_CASE("fills give labels in range, permutations and rows of probabilities, and depend on the seed") {
  OpCase c;
  c.name = "fills";
  c.inputs = {{"labels", {100}, Fill::labels(7)},
              {"order", {50}, Fill::permutation()},
              {"p", {4, 5}, Fill::probabilities()},
              {"u", {100}, Fill::uniform(-2, -1)},
              {"log", {100}, Fill::log_uniform(1e-3, 10)}};
  const Tensors a = make_inputs(c, 1, false), b = make_inputs(c, 2, false);
  for (const double v : a[0].data) CHECK((v >= 0 && v < 7 && v == std::floor(v)));
  CHECK(std::set<double>(a[1].data.begin(), a[1].data.end()).size() == 50);
  for (int r = 0; r < 4; r++) {
    double sum = 0;
    for (int i = 0; i < 5; i++) sum += a[2].data[r * 5 + i];
    CHECK(sum == doctest::Approx(1));
  }
  for (const double v : a[3].data) CHECK((v >= -2 && v <= -1));
  double below_1e_1 = 0;
  for (const double v : a[4].data) {
    CHECK((v >= 1e-3 && v <= 10));
    below_1e_1 += v < 0.1;
  }
  CHECK(below_1e_1 == doctest::Approx(50).epsilon(0.3));  // half of the decades
  CHECK(a[3].data != b[3].data);
  CHECK(a[3].data == make_inputs(c, 1, false)[3].data);
}

TEST_CASE("the bound is the slowest of exp, fma and bandwidth") {
  MachineBounds m;
  m.fma_flops = 100;
  m.exps = 10;
  m.bytes = 1000;
  std::string limit;
  CHECK(bound_seconds({200, 10, 100}, m, &limit) == doctest::Approx(2));
  CHECK(limit == "fma");
  CHECK(bound_seconds({0, 30, 100}, m, &limit) == doctest::Approx(3));
  CHECK(limit == "exp");
}
