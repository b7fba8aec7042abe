#include "aspis/ops/adamw/adamw.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <set>

#include "aspis/base/error.h"
#include "aspis/base/rng.h"
#include "aspis/ops/adamw/kernel/reference.h"

using namespace aspis;
namespace mx = mlx::core;
using Arrays = std::vector<mx::array>;

namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

mx::array random(const mx::Shape& shape, Rng& rng) {
  int64_t n = 1;
  for (const int d : shape) n *= d;
  std::vector<float> x(n);
  for (float& v : x) v = static_cast<float>(rng.normal());
  return mx::array(x.begin(), shape);
}

std::vector<double> values(mx::array a) {
  a = mx::contiguous(mx::astype(a, mx::float64));
  a.eval();
  return {a.data<double>(), a.data<double>() + a.size()};
}

bool same_bits(mx::array a, mx::array b) {
  a = mx::contiguous(a);
  b = mx::contiguous(b);
  mx::eval(a, b);
  return a.nbytes() == b.nbytes() && std::memcmp(a.data<char>(), b.data<char>(), a.nbytes()) == 0;
}

struct Setup {
  Arrays p, m, v, g;
  std::vector<bool> decay;
  explicit Setup(uint64_t seed = 1) {
    Rng rng(seed, "adamw");
    for (const mx::Shape& shape : {mx::Shape{3, 5}, {}, {40, 1000}, {7}, {0, 4}}) {
      p.push_back(random(shape, rng));
      g.push_back(random(shape, rng));
      m.push_back(mx::zeros(shape));
      v.push_back(mx::zeros(shape));
      decay.push_back(shape.size() > 1);
    }
    mx::eval(p);
    mx::eval(g);
  }
};

void eval_all(const AdamWResult& r) {
  Arrays all = r.parameters;
  all.insert(all.end(), r.first.begin(), r.first.end());
  all.insert(all.end(), r.second.begin(), r.second.end());
  mx::eval(all);
}

}  // namespace

TEST_CASE("adamw follows the definition for ten steps with clipping") {
  Setup s;
  std::vector<std::vector<double>> p, m, v;
  for (const auto& a : s.p) p.push_back(values(a));
  for (const auto& a : s.p) m.emplace_back(a.size());
  v = m;
  AdamWOptions o;
  o.weight_decay = 0.05;
  o.max_norm = 1.5;
  Rng rng(9, "gradients");
  for (int64_t step = 1; step <= 10; step++) {
    for (auto& g : s.g) g = random(g.shape(), rng);
    const double norm = step < 5 ? 6 : 1, rate = 0.01 / static_cast<double>(step);
    const auto r = adamw(s.p, s.g, s.m, s.v, s.decay, step, rate, o, mx::array(static_cast<float>(norm)),
                         mx::array(0.5f));
    s.p = r.parameters;
    s.m = r.first;
    s.v = r.second;
    if (step % 3 == 0) eval_all(r);  // evaluated at once or a few steps later
    const double clip = std::min(1.0, 1.5 / (norm + 1e-6));
    for (size_t i = 0; i < p.size(); i++) {
      const auto g = values(s.g[i]);
      for (size_t k = 0; k < g.size(); k++) {
        kernel::adamw_reference(p[i][k], g[k], m[i][k], v[i][k], clip, o.beta1, o.beta2, o.eps,
                                s.decay[i] ? o.weight_decay : 0, rate, step);
      }
    }
  }
  for (size_t i = 0; i < p.size(); i++) {
    const auto got = values(s.p[i]), got_m = values(s.m[i]), got_v = values(s.v[i]);
    double worst = 0;
    for (size_t k = 0; k < got.size(); k++) {
      worst = std::max({worst, std::abs(got[k] - p[i][k]), std::abs(got_m[k] - m[i][k]), std::abs(got_v[k] - v[i][k])});
    }
    CHECK(worst < 3e-6);
  }
}

TEST_CASE("adamw leaves every bit when loss or norm is not finite, and updates when both are") {
  const Setup s;
  for (const float bad : {kNan, kInf, -kInf}) {
    for (const bool in_loss : {false, true}) {
      AdamWOptions o;
      o.max_norm = 1;
      const auto norm = mx::array(in_loss ? 1.0f : bad), loss = mx::array(in_loss ? bad : 1.0f);
      const auto r = adamw(s.p, s.g, s.m, s.v, s.decay, 1, 0.1, o, norm, loss);
      eval_all(r);
      for (size_t i = 0; i < s.p.size(); i++) {
        CHECK(same_bits(r.parameters[i], s.p[i]));
        CHECK(same_bits(r.first[i], s.m[i]));
        CHECK(same_bits(r.second[i], s.v[i]));
      }
    }
  }
  const auto r = adamw(s.p, s.g, s.m, s.v, s.decay, 1, 0.1, {}, mx::array(1.0f), mx::array(1.0f));
  CHECK_FALSE(same_bits(r.parameters[0], s.p[0]));
  CHECK_FALSE(same_bits(r.first[0], s.m[0]));
}

TEST_CASE("adamw works in the buffers of arrays that nobody else holds and spares those that somebody holds") {
  Setup s;
  auto r = adamw(s.p, s.g, s.m, s.v, s.decay, 1, 0.01, {});
  eval_all(r);
  std::set<const void*> before;
  for (const auto& list : {&r.parameters, &r.first, &r.second}) {
    for (const auto& a : *list) {
      if (a.size() > 0) before.insert(a.data<float>());
    }
  }
  CHECK(before.size() == 12);
  CHECK(before.count(s.p[2].data<float>()) == 0);  // s.p is still held here
  const mx::array kept = r.parameters[2];
  const auto kept_values = values(kept);
  Arrays p = std::move(r.parameters), m = std::move(r.first), v = std::move(r.second);
  r = adamw(p, s.g, m, v, s.decay, 2, 0.01, {});
  p.clear();
  m.clear();
  v.clear();
  eval_all(r);
  size_t reused = 0;
  for (const auto& list : {&r.parameters, &r.first, &r.second}) {
    for (const auto& a : *list) reused += a.size() > 0 && before.count(a.data<float>());
  }
  CHECK(reused == 11);
  CHECK(values(kept) == kept_values);
  CHECK(values(r.parameters[2]) != kept_values);
}

TEST_CASE("adamw results can be evaluated one by one and dropped") {
  const Setup s;
  const auto whole = adamw(s.p, s.g, s.m, s.v, s.decay, 1, 0.01, {});
  eval_all(whole);
  auto r = adamw(s.p, s.g, s.m, s.v, s.decay, 1, 0.01, {});
  r.second.clear();
  r.first[0].eval();
  CHECK(same_bits(r.first[0], whole.first[0]));
  CHECK(same_bits(r.parameters[2], whole.parameters[2]));
}

TEST_CASE("adamw takes double, strided and narrow gradients") {
  const auto p = mx::array({1.0f, 2.0f, 3.0f, 4.0f}, {2, 2}), z = mx::zeros({2, 2});
  const auto g = mx::array({1.0f, -1.0f, 0.5f, 0.25f}, {2, 2});
  const auto want = adamw({p}, {g}, {z}, {z}, {true}, 1, 0.1, {}).parameters[0];
  const auto turned = mx::transpose(mx::contiguous(mx::transpose(g)));
  CHECK(same_bits(adamw({p}, {turned}, {z}, {z}, {true}, 1, 0.1, {}).parameters[0], want));
  CHECK(same_bits(adamw({p}, {mx::astype(g, mx::bfloat16)}, {z}, {z}, {true}, 1, 0.1, {}).parameters[0], want));
  const auto wide = [](const mx::array& a) { return mx::astype(a, mx::float64); };
  const auto d = adamw({wide(p)}, {g}, {wide(z)}, {wide(z)}, {true}, 1, 0.1, {}).parameters[0];
  CHECK(d.dtype() == mx::float64);
  // The first step moves by lr g / (|g| + eps).
  const auto got = values(d);
  CHECK(got[0] == doctest::Approx(1 - 0.1 / (1 + 1e-8)).epsilon(1e-14));
  CHECK(got[1] == doctest::Approx(2 + 0.1 / (1 + 1e-8)).epsilon(1e-14));
}

TEST_CASE("adamw refuses what does not fit with one sentence") {
  const auto a = mx::zeros({2}), b = mx::zeros({3});
  CHECK_THROWS_WITH_AS(adamw({a}, {}, {a}, {a}, {true}, 1, 0.1, {}),
                       "[adamw] parameters, gradients, first, second and decay must be lists of one length; got 1, 0, "
                       "1, 1 and 1",
                       Error);
  CHECK_THROWS_WITH_AS(adamw({a}, {b}, {a}, {a}, {true}, 1, 0.1, {}),
                       "[adamw] gradients[0] must have shape of its parameter = {2}; got {3}", Error);
  CHECK_THROWS_WITH_AS(adamw({mx::zeros({2}, mx::float16)}, {a}, {a}, {a}, {true}, 1, 0.1, {}),
                       "[adamw] parameters and moments must all be float32 or all float64; got float16 at [0]. Try: "
                       "train in float32",
                       Error);
  CHECK_THROWS_WITH_AS(adamw({a}, {a}, {a}, {a}, {true}, 0, 0.1, {}),
                       "[adamw] step must be at least 1; got 0.000000", Error);
  AdamWOptions o;
  o.max_norm = 1;
  CHECK_THROWS_WITH_AS(adamw({a}, {a}, {a}, {a}, {true}, 1, 0.1, o),
                       "[adamw] norm is needed for clipping by max_norm; got none. Try: global_norm(gradients)", Error);
  CHECK_THROWS_AS(adamw({a}, {a}, {a}, {a}, {true}, 1, NAN, {}), Error);
  CHECK_THROWS_AS(adamw({a}, {a}, {a}, {a}, {true}, 1, 0.1, {}, b), Error);
}
