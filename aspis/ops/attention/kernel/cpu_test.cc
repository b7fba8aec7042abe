#include "aspis/ops/attention/kernel/cpu.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/base/rng.h"
#include "aspis/ops/attention/kernel/reference.h"
#include "aspis/simd/isa.h"

using namespace aspis;

namespace {

struct Shape {
  int64_t batch, queries, keys, heads, dim;
  bool causal;
};
const Shape kShapes[] = {{1, 1, 1, 1, 1, false},   {2, 3, 5, 2, 3, true},      {1, 16, 16, 1, 16, true},
                         {2, 65, 40, 2, 7, false}, {1, 130, 130, 2, 33, true}, {1, 49, 300, 1, 64, false},
                         {1, 20, 270, 1, 80, true}};

std::vector<double> random(int64_t n, const char* name) {
  std::vector<double> v(n);
  Rng rng(5, name);
  for (double& x : v) x = static_cast<float>(rng.normal());
  return v;
}

// q, k and v lie side by side in rows of one array (with one value between), as in a model.
template <typename T>
struct Problem {
  std::vector<T> q, kv, g;
  std::vector<T> o, dq, dk, dv;
  kernel::AttentionVjpParams<T> p;

  explicit Problem(const Shape& s) {
    const int64_t row = s.heads * s.dim, wide = 2 * row + 1;
    const auto fill = [](std::vector<T>& to, int64_t n, const char* name) {
      const auto from = random(n, name);
      to.assign(from.begin(), from.end());
    };
    fill(q, s.batch * s.queries * (row + 3), "q");
    fill(kv, s.batch * s.keys * wide, "kv");
    fill(g, s.batch * s.queries * row, "g");
    const T untouched = std::numeric_limits<T>::quiet_NaN();
    o.assign(s.batch * s.queries * row, untouched);
    dq = o;
    dk.assign(s.batch * s.keys * row, untouched);
    dv = dk;
    auto& f = p.forward;
    f.batch = s.batch;
    f.queries = s.queries;
    f.keys = s.keys;
    f.heads = s.heads;
    f.dim = s.dim;
    f.scale = 1.1 / std::sqrt(static_cast<double>(s.dim));
    f.causal = s.causal;
    f.q = q.data();
    f.q_strides = {s.queries * (row + 3), row + 3, s.dim};
    f.k = kv.data();
    f.v = kv.data() + row + 1;
    f.k_strides = f.v_strides = {s.keys * wide, wide, s.dim};
    f.o = o.data();
    p.d_o = g.data();
    p.d_o_strides = {s.queries * row, row, s.dim};
    p.dq = dq.data();
    p.dk = dk.data();
    p.dv = dv.data();
  }
};

template <typename T>
double error(const std::vector<T>& got, const std::vector<double>& want) {
  double worst = 0, size = 0;
  for (size_t i = 0; i < want.size(); i++) {
    if (!std::isfinite(got[i]) || !std::isfinite(want[i])) return std::numeric_limits<double>::infinity();
    worst = std::max(worst, std::abs(got[i] - want[i]));
    size = std::max(size, std::abs(want[i]));
  }
  return size > 0 ? worst / size : worst;
}

template <typename T>
void check(const Shape& s, double limit) {
  Problem<T> got(s);
  Problem<double> want(s);
  kernel::attention(got.p.forward);
  kernel::attention_vjp(got.p);
  kernel::attention_reference(want.p.forward);
  kernel::attention_vjp_reference(want.p);
  CHECK(error(got.o, want.o) < limit);
  CHECK(error(got.dq, want.dq) < 3 * limit);
  CHECK(error(got.dk, want.dk) < 3 * limit);
  CHECK(error(got.dv, want.dv) < 3 * limit);
}

}  // namespace

TEST_CASE("attention kernel and its gradients match the definition on every instruction set, rows with gaps") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (const Shape& s : kShapes) {
      CAPTURE(isa);
      CAPTURE(s.queries);
      CAPTURE(s.keys);
      check<float>(s, 1e-6);
      check<double>(s, 5e-15);  // the oracle rounds in double too
    }
  }
  force_isa("");
}

TEST_CASE("attention kernel has the same bits for any number of threads") {
  const Shape s{2, 197, 197, 3, 20, true};
  std::vector<float> first;
  for (const int threads : {1, 2, 3, 7}) {
    set_num_threads(threads);
    Problem<float> a(s);
    kernel::attention(a.p.forward);
    kernel::attention_vjp(a.p);
    std::vector<float> all = a.o;
    for (const auto* part : {&a.dq, &a.dk, &a.dv}) all.insert(all.end(), part->begin(), part->end());
    if (first.empty()) first = all;
    CHECK(all == first);
  }
  set_num_threads(0);
}

TEST_CASE("attention kernel stays finite for scores far beyond the range of the exponential") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    const float q[] = {1000.f}, k[] = {-30.f, 40.f, 40.f}, v[] = {5.f, 1.f, 3.f};
    float o[1];
    kernel::attention<float>({1, 1, 3, 1, 1, 1.0, false, q, k, v, {1, 1, 1}, {3, 1, 1}, {3, 1, 1}, o});
    CHECK(o[0] == 2.f);
  }
  force_isa("");
}

TEST_CASE("attention gradient of keys and values without queries is zero") {
  Problem<float> a({1, 0, 3, 2, 4, false});
  kernel::attention_vjp(a.p);
  CHECK(a.dk == std::vector<float>(24, 0.f));
  CHECK(a.dv == std::vector<float>(24, 0.f));
}
