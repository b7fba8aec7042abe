#include "aspis/ops/adamw/kernel/cpu.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/base/rng.h"
#include "aspis/ops/adamw/kernel/reference.h"
#include "aspis/simd/isa.h"

using namespace aspis;
using kernel::AdamWConstants;

namespace {

// A few arrays with random gradients, each one element off alignment. `in_place`
// false writes to second buffers and swaps them after a step.
template <typename T>
struct Model {
  std::vector<std::vector<T>> p, g, m, v, p2, m2, v2;
  kernel::UpdateParams<T> params;
  float applied = -7;
  Rng rng{3, "adamw"};

  explicit Model(const std::vector<int64_t>& sizes) {
    const auto random = [&](int64_t n, double scale) {
      std::vector<T> x(n + 1);
      for (auto& e : x) e = static_cast<T>(static_cast<float>(scale * rng.normal()));
      return x;
    };
    for (const int64_t n : sizes) {
      p.push_back(random(n, 1));
      g.push_back(random(n, 1));
      m.emplace_back(n + 1);
      v.emplace_back(n + 1);
    }
    p2 = p;
    m2 = m;
    v2 = v;
    params.learning_rate = 1e-2;
    params.applied = &applied;
  }

  void step(const AdamWConstants& c, bool in_place) {
    params.arrays.clear();
    for (size_t i = 0; i < p.size(); i++) {
      kernel::UpdateArray<T> a{static_cast<int64_t>(p[i].size()) - 1,
                               g[i].data() + 1,
                               {p[i].data() + 1, m[i].data() + 1, v[i].data() + 1},
                               {},
                               i % 2 == 0};
      a.out[0] = (in_place ? p : p2)[i].data() + 1;
      a.out[1] = (in_place ? m : m2)[i].data() + 1;
      a.out[2] = (in_place ? v : v2)[i].data() + 1;
      params.arrays.push_back(a);
    }
    kernel::adamw(params, c);
    if (in_place) return;
    std::swap(p, p2);
    std::swap(m, m2);
    std::swap(v, v2);
  }
};

// Largest error of a parameter after ten steps, relative to how far parameters moved.
template <typename T>
double ten_steps(bool in_place, double scale, double norm_limit) {
  const AdamWConstants c{0.9, 0.99, 1e-8, 0.1};
  Model<T> model({1, 15, 16, 17, 40000, 3});
  std::vector<std::vector<kernel::AdamWElement>> want;
  for (const auto& x : model.p) {
    want.emplace_back();
    for (const T e : x) want.back().push_back({e, 0, 0});
  }
  const auto start = model.p;
  Rng rng(5, "gradients");
  for (int64_t t = 1; t <= 10; t++) {
    double squares = 0;
    for (auto& x : model.g) {
      for (size_t j = 1; j < x.size(); j++) {
        x[j] = static_cast<T>(static_cast<float>(rng.normal()));
        squares += static_cast<double>(x[j]) * static_cast<double>(x[j]);
      }
    }
    const float norm = static_cast<float>(std::sqrt(squares));
    model.params.norm = &norm;
    model.params.max_norm = norm_limit;
    model.params.gradient_scale = scale;
    model.params.step = t;
    model.params.learning_rate = 1e-2 / static_cast<double>(t);
    model.step(c, in_place);
    CHECK(model.applied == 1);
    double factor = scale;
    if (norm_limit > 0 && norm_limit / (norm * scale + 1e-6) < 1) factor *= norm_limit / (norm * scale + 1e-6);
    for (size_t i = 0; i < want.size(); i++) {
      for (size_t j = 1; j < want[i].size(); j++) {
        want[i][j].step(factor * static_cast<double>(model.g[i][j]), 1e-2 / static_cast<double>(t), t, i % 2 == 0,
                        c);
      }
    }
  }
  double worst = 0, moved = 0;
  for (size_t i = 0; i < want.size(); i++) {
    for (size_t j = 1; j < want[i].size(); j++) {
      worst = std::max(worst, std::abs(static_cast<double>(model.p[i][j]) - want[i][j].p));
      moved = std::max(moved, std::abs(static_cast<double>(start[i][j]) - want[i][j].p));
    }
  }
  return worst / moved;
}

}  // namespace

TEST_CASE("adamw kernel follows an independent double loop over ten steps on every instruction set") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    CAPTURE(isa);
    for (const bool in_place : {true, false}) {
      // A parameter of size 4 is rounded by up to 2.4e-7 in each of ten steps, and moves by about 0.03.
      CHECK(ten_steps<float>(in_place, 1, 0) < 1e-4);
      CHECK(ten_steps<float>(in_place, 0.5, 1) < 1e-4);
      CHECK(ten_steps<double>(in_place, 1, 0) < 1e-13);
      CHECK(ten_steps<double>(in_place, 0.5, 1) < 1e-13);
    }
  }
  force_isa("");
}

TEST_CASE("adamw kernel gives the same bits for 1, 2, 3 and 7 threads, in place or not") {
  const auto run = [](int threads, bool in_place) {
    set_num_threads(threads);
    Model<float> model({100000, 3, 17, 40001});
    for (int64_t t = 1; t <= 3; t++) {
      model.params.step = t;
      model.step({}, in_place);
    }
    return std::vector{model.p, model.m, model.v};
  };
  const auto want = run(1, true);
  for (const int threads : {1, 2, 3, 7}) {
    CHECK(run(threads, false) == want);
    CHECK(run(threads, true) == want);
  }
  set_num_threads(0);
}

TEST_CASE("a step with a loss or norm that is not finite changes nothing") {
  const float one = 1, infinity = std::numeric_limits<float>::infinity(), nan = NAN;
  for (const bool in_place : {true, false}) {
    for (const auto& [norm, loss] : {std::pair{&infinity, &one}, {&nan, &one}, {&one, &nan}, {&one, &infinity}}) {
      Model<float> model({20, 33000});
      model.step({}, in_place);
      const auto p = model.p, m = model.m, v = model.v;
      model.params.step = 2;
      model.params.norm = norm;
      model.params.loss = loss;
      model.params.max_norm = 1;
      for (auto& x : model.g) x.assign(x.size(), nan);
      model.step({}, in_place);
      CHECK(model.applied == 0);
      CHECK(model.p == p);
      CHECK(model.m == m);
      CHECK(model.v == v);
    }
  }
}

TEST_CASE("clipping scales to the limit and never up") {
  float norm = 4;
  kernel::UpdateParams<float> p;
  CHECK(kernel::gradient_factor(p) == 1);
  p.norm = &norm;
  CHECK(kernel::gradient_factor(p) == 1);
  p.max_norm = 1;
  CHECK(kernel::gradient_factor(p) == doctest::Approx(1 / 4.000001));
  p.max_norm = 5;
  CHECK(kernel::gradient_factor(p) == 1);
  p.gradient_scale = 0.5;
  p.max_norm = 1;
  CHECK(kernel::gradient_factor(p) == doctest::Approx(0.5 / 2.000001));
  norm = 0;
  CHECK(kernel::gradient_factor(p) == 0.5);
}
