#include "aspis/ops/adamw/adamw.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <cmath>

#include "aspis/base/error.h"
#include "aspis/base/rng.h"
#include "aspis/ops/adamw/adamw_cases.h"
#include "aspis/ops/adamw/kernel/reference.h"
#include "aspis/ops/grad_norm/grad_norm.h"
#include "aspis/ops/harness/harness_doctest.h"

using namespace aspis;
namespace mx = mlx::core;
using Arrays = std::vector<mx::array>;

namespace {

mx::array random_array(const char* name, const mx::Shape& shape, uint64_t index = 0) {
  Rng rng(1, name, index);
  int64_t n = 1;
  for (const auto d : shape) n *= d;
  std::vector<float> values(n);
  for (auto& v : values) v = static_cast<float>(rng.normal());
  return mx::array(values.begin(), shape);
}

Arrays zeros_like(const Arrays& like) {
  Arrays zeros;
  for (const auto& a : like) {
    zeros.push_back(mx::zeros(a.shape(), a.dtype()));
    mx::eval(zeros.back());
  }
  return zeros;
}

void eval(const AdamWResult& r) {
  Arrays all{r.applied};
  for (const auto* list : {&r.params, &r.m, &r.v}) all.insert(all.end(), list->begin(), list->end());
  mx::eval(all);
}

}  // namespace

TEST_CASE("adamw conforms on every instruction set") { harness::expect_conforms(adamw_entry()); }

TEST_CASE("ten steps of adamw with a clipped norm follow an independent double loop") {
  Arrays p{random_array("p", {7, 5}), random_array("p", {3}, 1)}, m = zeros_like(p), v = zeros_like(p);
  std::vector<std::vector<kernel::AdamWElement>> want(2);
  for (size_t i = 0; i < 2; i++) {
    for (size_t j = 0; j < p[i].size(); j++) want[i].push_back({p[i].data<float>()[j], 0, 0});
  }
  AdamWOptions options;
  options.weight_decay = 0.1;
  for (int t = 1; t <= 10; t++) {
    const Arrays g{random_array("g", {7, 5}, t), random_array("h", {3}, t)};
    double squares = 0;
    for (const auto& a : g) {
      for (size_t j = 0; j < a.size(); j++) squares += std::pow(static_cast<double>(a.data<float>()[j]), 2);
    }
    StepControl control;
    control.lr = 0.1 / t;
    control.step = t;
    control.max_norm = 1.5;
    control.norm = global_norm(g);
    auto r = adamw(std::move(p), g, std::move(m), std::move(v), {true, false}, options, control);
    eval(r);
    CHECK(r.applied.item<float>() == 1);
    p = r.params, m = r.m, v = r.v;
    const double factor = std::min(1.0, 1.5 / (std::sqrt(squares) + 1e-6));
    for (size_t i = 0; i < 2; i++) {
      for (size_t j = 0; j < want[i].size(); j++) {
        want[i][j].step(factor * g[i].data<float>()[j], 0.1 / t, t, i == 0,
                        {options.beta1, options.beta2, options.eps, options.weight_decay});
        CHECK(p[i].data<float>()[j] == doctest::Approx(want[i][j].p).epsilon(2e-6));
        CHECK(v[i].data<float>()[j] == doctest::Approx(want[i][j].v).epsilon(2e-6));
      }
    }
  }
}

TEST_CASE("a NaN in the gradient or the loss leaves parameters and moments bit-equal") {
  for (const bool composed : {false, true}) {
    for (const bool bad_loss : {false, true}) {
      const Arrays p{random_array("p", {40, 3})}, m{random_array("m", {40, 3})},
          v{mx::abs(random_array("v", {40, 3}))};
      const Arrays g{bad_loss ? random_array("g", {40, 3}) : mx::full({40, 3}, NAN)};
      StepControl control;
      control.norm = global_norm(g);
      control.max_norm = 1;
      control.loss = mx::array(bad_loss ? INFINITY : 1.0f);
      auto r = composed ? adamw_composed(p, g, m, v, {true}, {}, control) : adamw(p, g, m, v, {true}, {}, control);
      eval(r);
      CHECK(r.applied.item<float>() == 0);
      CHECK(mx::array_equal(r.params[0], p[0]).item<bool>());
      CHECK(mx::array_equal(r.m[0], m[0]).item<bool>());
      CHECK(mx::array_equal(r.v[0], v[0]).item<bool>());
    }
  }
}

TEST_CASE("adamw updates buffers in place when nothing else holds them, and only then") {
  Arrays p{random_array("p", {100, 30}), random_array("p", {9}, 1)}, m = zeros_like(p), v = zeros_like(p);
  const Arrays g{random_array("g", {100, 30}), random_array("g", {9}, 1)};
  const mx::array snapshot = p[1];
  const float before = snapshot.data<float>()[0];
  const float* const p0 = p[0].data<float>();
  const float* const m1 = m[1].data<float>();
  const float* const v0 = v[0].data<float>();
  const auto r = adamw(std::move(p), g, std::move(m), std::move(v), {true, true}, {}, {});
  eval(r);
  CHECK(r.params[0].data<float>() == p0);
  CHECK(r.m[1].data<float>() == m1);
  CHECK(r.v[0].data<float>() == v0);
  CHECK(r.params[1].data<float>() != snapshot.data<float>());
  CHECK(snapshot.data<float>()[0] == before);
  CHECK(r.params[1].data<float>()[0] != before);
}

TEST_CASE("one eval computes loss, gradients, norm and step, and the forward sees the old parameters") {
  Arrays p{random_array("p", {50})};
  Arrays m = zeros_like(p), v = zeros_like(p);
  const auto before = std::vector<float>(p[0].data<float>(), p[0].data<float>() + 50);
  auto [loss, g] = mx::value_and_grad([](const Arrays& a) { return mx::sum(mx::square(a[0])); })(p);
  StepControl control;
  control.lr = 0.1;
  control.norm = global_norm({g});
  control.loss = loss;
  const mx::array after_use = mx::sum(mx::multiply(p[0], mx::array(2.0f)));
  auto r = adamw(std::move(p), {g}, std::move(m), std::move(v), {false}, {}, control);
  mx::eval({r.params[0], r.m[0], r.v[0], loss, *control.norm, after_use});
  double sum = 0, squares = 0;
  for (const float x : before) {
    sum += x;
    squares += static_cast<double>(x) * x;
  }
  CHECK(loss.item<float>() == doctest::Approx(squares));
  CHECK(mx::array(after_use).item<float>() == doctest::Approx(2 * sum).epsilon(1e-4));
  CHECK(control.norm->item<float>() == doctest::Approx(2 * std::sqrt(squares)));
  // The first step moves every parameter by lr towards zero.
  for (size_t j = 0; j < 50; j++) {
    CHECK(r.params[0].data<float>()[j] ==
          doctest::Approx(before[j] - std::copysign(0.1, before[j])).epsilon(1e-4));
  }
}

TEST_CASE("adamw takes gradients of other layouts and dtypes, and results can be evaluated one by one") {
  const Arrays p{random_array("p", {6, 4})};
  const auto g = random_array("g", {4, 6});
  const auto half = mx::astype(g, mx::bfloat16);
  const auto plain = adamw(p, {mx::contiguous(mx::astype(mx::transpose(half), mx::float32))}, zeros_like(p),
                           zeros_like(p), {true}, {}, {});
  const auto turned = adamw(p, {mx::transpose(half)}, zeros_like(p), zeros_like(p), {true}, {}, {});
  mx::eval(turned.v[0]);
  mx::eval(turned.params[0]);
  CHECK(mx::array_equal(plain.params[0], turned.params[0]).item<bool>());
  CHECK(mx::array_equal(plain.m[0], turned.m[0]).item<bool>());
  CHECK(mx::array_equal(plain.v[0], turned.v[0]).item<bool>());
}

TEST_CASE("adamw works on hundreds of small arrays and on none") {
  Arrays p, g;
  for (int i = 0; i < 300; i++) {
    p.push_back(random_array("p", {i % 37 + 1}, i));
    g.push_back(mx::ones({i % 37 + 1}));
  }
  const auto r = adamw(p, g, zeros_like(p), zeros_like(p), std::vector<bool>(300, false), {}, {});
  eval(r);
  bool moved = true;
  for (int i = 0; i < 300; i++) {
    for (int j = 0; j <= i % 37; j++) {
      moved = moved && std::abs(p[i].data<float>()[j] - 1e-3f - r.params[i].data<float>()[j]) < 1e-6f;
    }
  }
  CHECK(moved);
  CHECK(adamw({}, {}, {}, {}, {}, {}, {}).params.empty());
}

TEST_CASE("adamw refuses what does not fit with one sentence") {
  const Arrays p{mx::zeros({2, 3})}, z{mx::zeros({2, 3})};
  const auto step = [&](const Arrays& g, const Arrays& m, const StepControl& control = {},
                        AdamWOptions options = {}) { return adamw(p, g, m, z, {true}, options, control); };
  CHECK_THROWS_WITH_AS(step({}, z), "[adamw] gradients must hold one entry per parameter, 1; got 0", Error);
  CHECK_THROWS_WITH_AS(step({mx::zeros({3, 2})}, z),
                       "[adamw] gradients[0] must have shape {parameter} = {2, 3}; got {3, 2}", Error);
  CHECK_THROWS_WITH_AS(step(z, {mx::zeros({2, 3}, mx::float16)}),
                       "[adamw] m[0] must be float32 like its parameter; got float16", Error);
  StepControl control;
  control.lr = NAN;
  CHECK_THROWS_WITH_AS(step(z, z, control), "[adamw] lr must be a finite number of at least 0; got nan", Error);
  control.lr = 1;
  control.max_norm = 1;
  CHECK_THROWS_WITH_AS(
      step(z, z, control),
      "[adamw] clipping needs the norm of the gradients; got none. Try: pass global_norm(gradients)", Error);
  AdamWOptions options;
  options.beta1 = 1;
  CHECK_THROWS_AS(step(z, z, {}, options), Error);
}
