#include "aspis/ops/attention/kernel/cpu.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <type_traits>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/base/rng.h"
#include "aspis/ops/attention/kernel/reference.h"
#include "aspis/simd/isa.h"

using namespace aspis;

namespace {

enum class Mask { kNone, kCausal, kBias, kKeyBias, kAllow };

struct Shape {
  int64_t batch, queries, keys, heads, kv_heads, dim;
  Mask mask;
  int64_t height = 0, width = 0, side = 0;
};
// Panels of keys are 256 long, blocks of queries 64; few tasks of more than 256 keys are cut.
const Shape kShapes[] = {{1, 1, 1, 1, 1, 1, Mask::kNone},
                         {2, 3, 5, 2, 2, 3, Mask::kCausal},
                         {1, 16, 16, 1, 1, 16, Mask::kCausal},
                         {2, 65, 40, 2, 1, 7, Mask::kBias},
                         {1, 130, 130, 4, 2, 33, Mask::kAllow},
                         {1, 49, 300, 1, 1, 64, Mask::kKeyBias},
                         {1, 20, 270, 1, 1, 80, Mask::kCausal},
                         {1, 70, 777, 6, 2, 24, Mask::kAllow},
                         {2, 5, 600, 1, 1, 32, Mask::kBias},
                         {1, 600, 600, 2, 2, 48, Mask::kCausal},
                         {2, 9, 9, 2, 2, 5, Mask::kNone, 3, 7, 3},  // windows with rest below and at the right
                         {1, 64, 64, 4, 2, 16, Mask::kNone, 11, 8, 8}};

std::vector<double> random(int64_t n, const char* name) {
  std::vector<double> v(n);
  Rng rng(5, name);
  for (double& x : v) x = static_cast<float>(rng.normal());
  return v;
}

double value(Bf16 x) { return to_float(x); }
double value(float x) { return x; }
double value(double x) { return x; }

// q, k and v lie side by side in rows of one array (with one value between), as in
// a model. `rounded`: the values are those that bfloat16 holds.
template <typename T, typename S = T>
struct Problem {
  std::vector<S> q, kv, g;
  std::vector<S> o, dq, dk, dv;
  std::vector<T> stats, bias, d_scores;
  std::unique_ptr<bool[]> allow;
  kernel::AttentionVjpParams<T, S> p;

  Problem(const Shape& s, bool rounded) {
    const bool windows = s.side > 0;
    const int64_t queries = windows ? s.height * s.width : s.queries, keys = windows ? queries : s.keys;
    const int64_t row = s.heads * s.dim, kv_row = s.kv_heads * s.dim, wide = 2 * kv_row + 1;
    const auto fill = [&](std::vector<S>& to, int64_t n, const char* name) {
      for (const double x : random(n, name)) {
        if constexpr (std::is_same_v<S, Bf16>) {
          to.push_back(to_bf16(static_cast<float>(x)));
        } else {
          to.push_back(static_cast<S>(rounded ? value(to_bf16(static_cast<float>(x))) : x));
        }
      }
    };
    fill(q, s.batch * queries * (row + 3), "q");
    fill(kv, s.batch * keys * wide, "kv");
    fill(g, s.batch * queries * row, "g");
    S untouched{};
    store_value(untouched, static_cast<T>(NAN));
    o.assign(s.batch * queries * row, untouched);
    dq = o;
    dk.assign(s.batch * keys * kv_row, untouched);
    dv = dk;
    const int64_t across = windows ? div_ceil(s.height, s.side) * div_ceil(s.width, s.side) : 1;
    stats.assign(s.batch * across * s.heads * 2 * s.queries, NAN);
    auto& f = p.forward;
    f.batch = s.batch;
    f.queries = s.queries;
    f.keys = s.keys;
    f.heads = s.heads;
    f.kv_heads = s.kv_heads;
    f.dim = s.dim;
    f.scale = static_cast<float>(1.1 / std::sqrt(static_cast<double>(s.dim)));
    f.causal = s.mask == Mask::kCausal;
    f.height = s.height;
    f.width = s.width;
    f.side = s.side;
    f.q = q.data();
    f.q_strides = {queries * (row + 3), row + 3, s.dim, s.width * (row + 3)};
    f.k = kv.data();
    f.v = kv.data() + kv_row + 1;
    f.k_strides = f.v_strides = {keys * wide, wide, s.dim, s.width * wide};
    f.o = o.data();
    f.stats = stats.data();
    const int64_t count = s.queries * s.keys;
    if (s.mask == Mask::kBias || s.mask == Mask::kKeyBias) {
      const auto from = random(s.batch * count, "bias");
      bias.assign(from.begin(), from.end());
      d_scores.assign(s.batch * s.heads * count, NAN);
      f.mask.bias = bias.data();
      f.mask.batch = s.mask == Mask::kBias ? count : s.keys;  // the same for all heads
      f.mask.row = s.mask == Mask::kBias ? s.keys : 0;
      f.mask.column = 1;
      p.d_scores = d_scores.data();
    }
    if (s.mask == Mask::kAllow) {
      allow.reset(new bool[count]);
      Rng rng(5, "allow");
      // The second query sees nothing, the third no key of the first panel.
      for (int64_t i = 0; i < count; i++) {
        allow[i] = rng.uniform() < 0.6 && i / s.keys != 1 && (i / s.keys != 2 || i % s.keys > 256);
      }
      f.mask.allow = allow.get();
      f.mask.row = s.keys;
      f.mask.column = 1;
    }
    p.o = o.data();
    p.o_strides = p.d_o_strides = {queries * row, row, s.dim, s.width * row};
    p.d_o = g.data();
    p.dq = dq.data();
    p.dk = dk.data();
    p.dv = dv.data();
  }
};

template <typename S>
double error(const std::vector<S>& got, const std::vector<double>& want) {
  double worst = 0, size = 0;
  for (size_t i = 0; i < want.size(); i++) {
    if (!std::isfinite(value(got[i])) || !std::isfinite(want[i])) return std::numeric_limits<double>::infinity();
    worst = std::max(worst, std::abs(value(got[i]) - want[i]));
    size = std::max(size, std::abs(want[i]));
  }
  return size > 0 ? worst / size : worst;
}

template <typename T, typename S>
void check(const Shape& s, double limit, double gradient_limit) {
  const bool rounded = std::is_same_v<S, Bf16>;
  Problem<T, S> got(s, rounded);
  Problem<double> want(s, rounded);
  kernel::attention(got.p.forward);
  kernel::attention_vjp(got.p);
  kernel::attention_reference(want.p.forward);
  kernel::attention_vjp_reference(want.p);
  CHECK(error(got.o, want.o) < limit);
  CHECK(error(got.dq, want.dq) < gradient_limit);
  CHECK(error(got.dk, want.dk) < gradient_limit);
  CHECK(error(got.dv, want.dv) < gradient_limit);
  if (got.p.d_scores) CHECK(error(got.d_scores, want.d_scores) < gradient_limit);
}

}  // namespace

TEST_CASE("attention kernel and its gradients match the definition on every instruction set, rows with gaps") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    for (const Shape& s : kShapes) {
      CAPTURE(isa);
      CAPTURE(s.queries);
      CAPTURE(s.keys);
      check<float, float>(s, 2e-6, 3e-6);
      check<double, double>(s, 5e-15, 2e-14);  // the oracle rounds in double too
      // Outputs are rounded to 8 bits, half of 2^-7; the backward starts from the rounded output.
      check<float, Bf16>(s, 4e-3, 8e-3);
    }
  }
  force_isa("");
}

TEST_CASE("attention kernel has the same bits for any number of threads") {
  for (const Shape& s : {Shape{2, 197, 197, 3, 3, 20, Mask::kCausal}, Shape{1, 100, 900, 2, 1, 16, Mask::kNone},
                         Shape{2, 16, 16, 2, 2, 8, Mask::kNone, 10, 9, 4}}) {
    std::vector<float> first;
    for (const int threads : {1, 2, 3, 7}) {
      set_num_threads(threads);
      Problem<float> a(s, false);
      kernel::attention(a.p.forward);
      kernel::attention_vjp(a.p);
      std::vector<float> all = a.o;
      for (const auto* part : {&a.dq, &a.dk, &a.dv}) all.insert(all.end(), part->begin(), part->end());
      if (first.empty()) first = all;
      CHECK(all == first);
    }
  }
  set_num_threads(0);
}

TEST_CASE("attention kernel stays finite for scores far beyond the range of the exponential") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    // The largest scores come in the second panel, which sets those of the first to zero.
    std::vector<float> k(300, -30.f), v(300, 5.f);
    k[280] = k[290] = 40;
    v[280] = 1;
    v[290] = 3;
    const float q[] = {1000.f};
    float o[1];
    kernel::AttentionParams<float> p;
    p.batch = p.queries = p.heads = p.kv_heads = p.dim = 1;
    p.keys = 300;
    p.q = q;
    p.k = k.data();
    p.v = v.data();
    p.q_strides = p.k_strides = p.v_strides = {300, 1, 1};
    p.o = o;
    kernel::attention(p);
    CHECK(o[0] == 2.f);
  }
  force_isa("");
}

TEST_CASE("attention kernel hands on a NaN to the queries that see it and to no other") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    Problem<float> a({1, 3, 4, 1, 1, 2, Mask::kNone}, false);
    a.q[5] = NAN;  // the second of three rows of five values
    kernel::attention(a.p.forward);
    CHECK(std::isfinite(a.o[0]));
    CHECK(std::isnan(a.o[2]));
    CHECK(std::isfinite(a.o[4]));
  }
  force_isa("");
}

TEST_CASE("attention gradient of keys and values without queries is zero") {
  Problem<float> a({1, 0, 3, 2, 2, 4, Mask::kNone}, false);
  kernel::attention_vjp(a.p);
  CHECK(a.dk == std::vector<float>(24, 0.f));
  CHECK(a.dv == std::vector<float>(24, 0.f));
}
