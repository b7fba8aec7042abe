#include <doctest/doctest.h>

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <new>
#include <string>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/ops/mamba3/kernel/cpu.h"
#include "aspis/ops/mamba3/kernel/reference.h"
#include "aspis/ops/mamba3/kernel/test_problem.h"
#include "aspis/simd/isa.h"

using namespace aspis;
using namespace aspis::kernel;

namespace {

std::atomic<int64_t> allocations{0};

// A sequence of tokens with everything there is; `options` as in cases.h.
template <typename T>
struct Tokens {
  int64_t batch, length, heads, rank, groups, headdim, state, angles;
  std::string options;
  std::vector<T> x, B, C, dd_dt, dd_A, trap, angle, dt_bias, B_norm, C_norm, B_bias, C_bias, D, z, mimo_x, mimo_z,
      mimo_o, out_norm, phi, ssm, k, v, out;

  Tokens(int64_t batch_, int64_t length_, int64_t heads_, int64_t rank_, int64_t groups_, int64_t P, int64_t N,
         int64_t A, std::string options_)
      : batch(batch_),
        length(length_),
        heads(heads_),
        rank(rank_),
        groups(groups_),
        headdim(P),
        state(N),
        angles(A),
        options(std::move(options_)) {
    using mamba3_test::draw;
    // Token by token, so that a step finds its inputs together: {L, B, ..}.
    const int64_t n = length * batch, R = rank, H = heads;
    x = draw<T>("x", n * H * P), B = draw<T>("B", n * R * groups * N), C = draw<T>("C", n * R * groups * N);
    dd_dt = draw<T>("dd_dt", n * H), dd_A = draw<T>("dd_A", n * H), trap = draw<T>("trap", n * H);
    if (A > 0) angle = draw<T>("angle", n * A);
    if (has('b')) {
      dt_bias = draw<T>("dt_bias", H), B_bias = draw<T>("B_bias", H * R * N),
      C_bias = draw<T>("C_bias", H * R * N);
    }
    if (has('n')) B_norm = draw<T>("B_norm", N), C_norm = draw<T>("C_norm", N);
    if (has('D')) D = draw<T>("D", H);
    if (has('z')) z = draw<T>("z", n * H * P);
    if (has('m')) mimo_x = draw<T>("mx", H * R * P), mimo_o = draw<T>("mo", H * R * P);
    if (has('m') && has('z')) mimo_z = draw<T>("mz", H * R * P);
    if (has('o')) out_norm = draw<T>("on", H * P);
    phi = draw<T>("phi", batch * H * A, 0.5, 3), ssm = draw<T>("ssm", batch * H * P * N);
    k = draw<T>("k", batch * R * H * N), v = draw<T>("v", batch * H * P);
    out.assign(x.size(), static_cast<T>(NAN));
  }
  bool has(char option) const { return options.find(option) != std::string::npos; }

  Mamba3StepParams<T> params(int64_t t) {
    const auto get = [](std::vector<T>& a) { return a.empty() ? nullptr : a.data(); };
    const auto at = [&](std::vector<T>& a) { return a.empty() ? nullptr : a.data() + a.size() / length * t; };
    Mamba3StepParams<T> p;
    p.batch = batch, p.heads = heads, p.rank = rank, p.groups = groups, p.headdim = headdim, p.state = state;
    p.angles = angles;
    p.pairs = has('h') ? RotaryPairs::kHalf : RotaryPairs::kAdjacent;
    p.heavy_tail = !has('s');
    p.A_floor = static_cast<T>(1e-4), p.eps = static_cast<T>(1e-5);
    p.x = at(x), p.B = at(B), p.C = at(C), p.dd_dt = at(dd_dt), p.dd_A = at(dd_A), p.trap = at(trap);
    p.angle = at(angle), p.z = at(z), p.out = at(out);
    p.dt_bias = get(dt_bias), p.B_norm = get(B_norm), p.C_norm = get(C_norm), p.B_bias = get(B_bias);
    p.C_bias = get(C_bias), p.D = get(D), p.out_norm = get(out_norm);
    p.mimo_x = get(mimo_x), p.mimo_z = get(mimo_z), p.mimo_o = get(mimo_o);
    p.phi = p.next_phi = phi.data(), p.ssm = p.next_ssm = ssm.data(), p.k = p.next_k = k.data(), p.v = v.data();
    return p;
  }
  void run() {
    for (int64_t t = 0; t < length; t++) {
      mamba3_step(params(t));
      std::copy_n(x.data() + static_cast<int64_t>(x.size()) / length * t, v.size(), v.data());
    }
  }
};

// {L, B, ..} -> {B, L, ..}
std::vector<double> by_sequence(const std::vector<double>& a, int64_t batch, int64_t length) {
  std::vector<double> to(a.size());
  const int64_t row = static_cast<int64_t>(a.size()) / (batch * length);
  for (int64_t t = 0; t < length; t++) {
    for (int64_t b = 0; b < batch; b++)
      std::copy_n(a.data() + (t * batch + b) * row, row, to.data() + (b * length + t) * row);
  }
  return to;
}

double error(const std::vector<double>& got, const std::vector<double>& want) {
  double worst = got.size() == want.size() ? 0 : INFINITY, largest = 1e-30;
  for (size_t i = 0; i < want.size(); i++) {
    if (!std::isfinite(got[i])) return INFINITY;
    worst = std::max(worst, std::abs(got[i] - want[i]));
    largest = std::max(largest, std::abs(want[i]));
  }
  return worst / largest;
}

template <typename T>
std::vector<double> wide(const std::vector<T>& a) {
  return {a.begin(), a.end()};
}

template <typename T>
void check(Tokens<T> m, double tolerance) {
  Tokens<double> in(m.batch, m.length, m.heads, m.rank, m.groups, m.headdim, m.state, m.angles, m.options);
  Mamba3Reference<double> r;
  r.shape = {m.batch, m.length, m.heads, m.rank, m.headdim, m.state, m.angles, 1};
  r.groups = m.groups, r.pairs = m.has('h') ? RotaryPairs::kHalf : RotaryPairs::kAdjacent;
  r.softplus_A = m.has('s'), r.A_floor = 1e-4, r.eps = 1e-5;
  const auto turned = [&](const std::vector<double>& a) { return by_sequence(a, m.batch, m.length); };
  const auto get = [](const std::vector<double>& a) { return a.empty() ? nullptr : a.data(); };
  const auto x = turned(in.x), B = turned(in.B), C = turned(in.C), dd_dt = turned(in.dd_dt),
             dd_A = turned(in.dd_A), trap = turned(in.trap), angle = turned(in.angle), z = turned(in.z);
  r.x = x.data(), r.B = B.data(), r.C = C.data(), r.dd_dt = dd_dt.data(), r.dd_A = dd_A.data(),
  r.trap = trap.data();
  r.angle = get(angle), r.z = get(z), r.dt_bias = get(in.dt_bias), r.B_norm = get(in.B_norm);
  r.C_norm = get(in.C_norm), r.B_bias = get(in.B_bias), r.C_bias = get(in.C_bias), r.D = get(in.D);
  r.mimo_x = get(in.mimo_x), r.mimo_z = get(in.mimo_z), r.mimo_o = get(in.mimo_o), r.out_norm = get(in.out_norm);
  r.phi0 = in.phi.data(), r.h0 = in.ssm.data(), r.k0 = in.k.data(), r.v0 = in.v.data();
  std::vector<double> out(x.size()), phi(in.phi), h(in.ssm), k(in.k), v(in.v);
  r.out = out.data(), r.phi = phi.data(), r.h = h.data(), r.k = k.data(), r.v = v.data();
  mamba3_reference(r);
  m.run();
  CHECK(error(turned(wide(m.out)), out) < tolerance);
  CHECK(error(wide(m.phi), phi) < tolerance);
  CHECK(error(wide(m.ssm), h) < tolerance);
  CHECK(error(wide(m.k), k) < tolerance);
  CHECK(wide(m.v) == v);
}

struct Case {
  int64_t batch, heads, rank, groups, headdim, state, angles;
  const char* options;
};

const std::vector<Case> kCases = {{1, 1, 1, 1, 1, 4, 0, ""},         {2, 2, 1, 2, 5, 18, 9, "bnDzs"},
                                  {3, 2, 1, 1, 64, 128, 32, "bnDz"}, {1, 3, 1, 3, 7, 20, 3, "bozh"},
                                  {2, 2, 2, 1, 9, 6, 2, "bnDzmh"},   {1, 4, 4, 2, 17, 36, 16, "bnDzmoh"},
                                  {1, 2, 3, 1, 6, 10, 5, "bDzm"}};

}  // namespace

// Counted in the whole program; the tests look at differences.
void* operator new(size_t bytes) {
  allocations++;
  void* const p = std::malloc(bytes);
  if (!p) throw std::bad_alloc();
  return p;
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }

TEST_CASE("steps one after the other are the recurrence of h, on every instruction set") {
  for (const auto& isa : supported_isas()) {
    force_isa(isa);
    CAPTURE(isa);
    for (const Case& c : kCases) {
      CAPTURE(std::string(c.options));
      CAPTURE(c.rank);
      check(Tokens<double>(c.batch, 5, c.heads, c.rank, c.groups, c.headdim, c.state, c.angles, c.options), 1e-12);
      // Phases are sums of turns of up to 2 pi.
      check(Tokens<float>(c.batch, 5, c.heads, c.rank, c.groups, c.headdim, c.state, c.angles, c.options), 1e-5);
    }
  }
  force_isa("");
}

TEST_CASE("a step gives the same bits for 1, 2, 3 and 7 threads") {
  for (const Case& c : kCases) {
    set_num_threads(1);
    Tokens<float> one(c.batch, 3, c.heads, c.rank, c.groups, c.headdim, c.state, c.angles, c.options);
    one.run();
    for (const int threads : {2, 3, 7}) {
      set_num_threads(threads);
      Tokens<float> many(c.batch, 3, c.heads, c.rank, c.groups, c.headdim, c.state, c.angles, c.options);
      many.run();
      CHECK(many.out == one.out);
      CHECK(many.ssm == one.ssm);
      CHECK(many.k == one.k);
      CHECK(many.phi == one.phi);
    }
  }
  set_num_threads(0);
}

TEST_CASE("a loop of steps allocates nothing") {
  set_num_threads(1);  // which thread of a team runs first is open
  for (const Case& c : kCases) {
    Tokens<float> m(c.batch, 4, c.heads, c.rank, c.groups, c.headdim, c.state, c.angles, c.options);
    m.run();
    const int64_t before = allocations;
    m.run();
    CHECK(allocations == before);
  }
  set_num_threads(0);
}
