#include "aspis/ops/adamw/kernel/cpu.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "aspis/base/parallel.h"
#include "aspis/base/rng.h"
#include "aspis/ops/adamw/kernel/reference.h"
#include "aspis/simd/isa.h"

using namespace aspis;

namespace {

// Tiny, empty and large tensors; the large ones span several blocks.
const std::vector<int64_t> kSizes = {1, 0, 3, 16, 17, 33, 70000, 5, 32768, 7};

template <typename T>
struct State {
  std::vector<std::vector<T>> p, g, m, v;

  explicit State(const char* name) {
    Rng rng(5, name);
    for (const int64_t n : kSizes) {
      p.emplace_back(n);
      g.emplace_back(n);
      m.emplace_back(n);
      v.emplace_back(n);
      for (auto& x : p.back()) x = static_cast<T>(rng.normal());
      new_gradient(rng, g.size() - 1);
    }
  }
  void new_gradient(Rng& rng, size_t i) {
    for (auto& x : g[i]) x = static_cast<T>(0.1 * rng.normal());
  }
  // In place; every second tensor decays.
  kernel::AdamWParams<T> params() {
    kernel::AdamWParams<T> a;
    a.beta1 = 0.9;
    a.beta2 = 0.99;
    a.eps = 1e-8;
    a.weight_decay = 0.1;
    a.learning_rate = 0.01;
    for (size_t i = 0; i < p.size(); i++) {
      a.parts.push_back({static_cast<int64_t>(p[i].size()), p[i].data(), g[i].data(), m[i].data(), v[i].data(),
                         p[i].data(), m[i].data(), v[i].data(), i % 2 == 0});
    }
    return a;
  }
};

template <typename T>
double worst_difference(const std::vector<std::vector<T>>& got, const std::vector<std::vector<double>>& want) {
  double worst = 0;
  for (size_t i = 0; i < got.size(); i++) {
    for (size_t k = 0; k < got[i].size(); k++) {
      worst = std::max(worst, std::abs(static_cast<double>(got[i][k]) - want[i][k]));
    }
  }
  return worst;
}

std::vector<std::vector<double>> widen(const std::vector<std::vector<float>>& x) {
  std::vector<std::vector<double>> wide;
  for (const auto& a : x) wide.emplace_back(a.begin(), a.end());
  return wide;
}
std::vector<std::vector<double>> widen(const std::vector<std::vector<double>>& x) { return x; }

}  // namespace

TEST_CASE_TEMPLATE("adamw kernel follows the definition for ten steps, with and without clipping, on every instruction set",
                   T, float, double) {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (const double max_norm : {0.0, 0.5}) {
      CAPTURE(isa);
      CAPTURE(max_norm);
      State<T> s("adamw");
      auto p = widen(s.p), m = widen(s.m), v = widen(s.v);
      Rng rng(6, "gradients");
      for (int64_t step = 1; step <= 10; step++) {
        for (size_t i = 0; i < s.g.size(); i++) s.new_gradient(rng, i);
        const T norm = static_cast<T>(step % 2 == 1 ? 3 : 0.25);  // clipped and not in turn
        auto a = s.params();
        a.step = step;
        a.max_norm = max_norm;
        a.norm = &norm;
        kernel::adamw(a);
        const double clip = max_norm > 0 ? std::min(1.0, max_norm / (static_cast<double>(norm) + 1e-6)) : 1.0;
        for (size_t i = 0; i < p.size(); i++) {
          for (size_t k = 0; k < p[i].size(); k++) {
            kernel::adamw_reference(p[i][k], static_cast<double>(s.g[i][k]), m[i][k], v[i][k], clip, 0.9, 0.99, 1e-8,
                                    i % 2 == 0 ? 0.1 : 0, 0.01, step);
          }
        }
      }
      // Parameters up to 4 after ten roundings: 10 * 4 * 6e-8 at most.
      const double bound = sizeof(T) == 4 ? 2.4e-6 : 1e-14;
      CHECK(worst_difference(s.p, p) < bound);
      CHECK(worst_difference(s.m, m) < bound / 10);
      CHECK(worst_difference(s.v, v) < bound / 10);
    }
  }
  force_isa("");
}

TEST_CASE("adamw kernel leaves everything as it is when loss or norm is not finite") {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const float fine = 1, nan = std::numeric_limits<float>::quiet_NaN(), inf = kInf, minus = -kInf;
  const std::pair<const float*, const float*> bad[] = {
      {&nan, &fine}, {&fine, &nan}, {&inf, &fine}, {&fine, &inf}, {&minus, nullptr}, {nullptr, &minus}};
  for (const auto& [norm, loss] : bad) {
    State<float> s("guard");
    s.p[3][1] = 1e-42f;  // a denormal stays too
    s.g[6][100] = nan;
    const auto p = s.p, m = s.m, v = s.v;
    auto a = s.params();
    a.norm = norm;
    a.loss = loss;
    kernel::adamw(a);
    CHECK(s.p == p);
    CHECK(s.m == m);
    CHECK(s.v == v);
    // Into other buffers: copied.
    State<float> other("other");
    for (size_t i = 0; i < a.parts.size(); i++) {
      a.parts[i].new_p = other.p[i].data();
      a.parts[i].new_m = other.m[i].data();
      a.parts[i].new_v = other.v[i].data();
    }
    kernel::adamw(a);
    CHECK(other.p == p);
    CHECK(other.m == m);
    CHECK(other.v == v);
  }
}

TEST_CASE("adamw kernel is bit-equal for any number of threads, in place or not") {
  State<float> one("threads");
  set_num_threads(1);
  kernel::adamw(one.params());
  for (const int threads : {2, 3, 7}) {
    set_num_threads(threads);
    State<float> s("threads"), to("other");
    auto a = s.params();
    for (size_t i = 0; i < a.parts.size(); i++) {
      a.parts[i].new_p = to.p[i].data();
      a.parts[i].new_m = to.m[i].data();
      a.parts[i].new_v = to.v[i].data();
    }
    kernel::adamw(a);
    CHECK(to.p == one.p);
    CHECK(to.m == one.m);
    CHECK(to.v == one.v);
  }
  set_num_threads(0);
}
