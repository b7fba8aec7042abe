// Times the scan kernel beside the bound set by its own vector exponential:
//
//   aspis_scan_bench [seconds per line]
//
// For each shape: nanoseconds per (token, channel, state) of the forward pass,
// the share of the exp bound (the same exponential alone, on data in L1, on the
// same threads), forward and forward + backward milliseconds and their ratio,
// and how many times a plain scalar loop takes.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <vector>

#include "aspis/base/clock.h"
#include "aspis/base/parallel.h"
#include "aspis/base/rng.h"
#include "aspis/ops/selective_scan/kernel/cpu.h"
#include "aspis/ops/selective_scan/kernel/plan.h"
#include "aspis/simd/isa.h"
#include "aspis/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/selective_scan/kernel/bench.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "aspis/ops/selective_scan/kernel/common-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {

// sum exp(step A) over n values at an aligned address, a multiple of 4 vectors.
float decay_loop(const float* a, int64_t n, int64_t rounds) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const DecayExp<hn::ScalableTag<float>> exp;
  auto s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
  for (int64_t r = 0; r < rounds; r++) {
    const auto step = hn::Set(d, 1.0f + 0.01f * static_cast<float>(r % 7));
    for (int64_t i = 0; i < n; i += 4 * lanes) {
      hn::Vec<decltype(d)> e[4];
      exp.group<4>(step, a + i, lanes, e);
      s0 = hn::Add(s0, e[0]);
      s1 = hn::Add(s1, e[1]);
      s2 = hn::Add(s2, e[2]);
      s3 = hn::Add(s3, e[3]);
    }
  }
  return simd::LaneSum(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)));
}
// The same with the library's general exponential of non-positive numbers.
float library_loop(const float* a, int64_t n, int64_t rounds) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  auto s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
  for (int64_t r = 0; r < rounds; r++) {
    for (int64_t i = 0; i < n; i += 4 * lanes) {
      s0 = hn::Add(s0, simd::ExpNonPositive(d, hn::LoadU(d, a + i)));
      s1 = hn::Add(s1, simd::ExpNonPositive(d, hn::LoadU(d, a + i + lanes)));
      s2 = hn::Add(s2, simd::ExpNonPositive(d, hn::LoadU(d, a + i + 2 * lanes)));
      s3 = hn::Add(s3, simd::ExpNonPositive(d, hn::LoadU(d, a + i + 3 * lanes)));
    }
  }
  return simd::LaneSum(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)));
}

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace aspis::kernel {
HWY_EXPORT(decay_loop);
HWY_EXPORT(library_loop);
namespace {

double best_seconds(double budget, const std::function<void()>& run) {
  run();
  double best = 1e30;
  const double start = monotonic_seconds();
  for (int i = 0; i < 5 || monotonic_seconds() - start < budget; i++) {
    const double t = monotonic_seconds();
    run();
    best = std::min(best, monotonic_seconds() - t);
  }
  return best;
}

double exp_rate(double budget, bool library) {
  constexpr int64_t kCount = 2048, kRounds = 2000;
  std::vector<float> memory(kCount + 16), sink(64 * num_threads());
  float* a = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64) % 64 / sizeof(float);
  for (int64_t i = 0; i < kCount; i++) a[i] = -0.11f * static_cast<float>(i % 97);
  const auto run = library ? &HWY_DYNAMIC_DISPATCH(library_loop) : &HWY_DYNAMIC_DISPATCH(decay_loop);
  const int threads = num_threads();
  const double t = best_seconds(
      budget, [&] { parallel_for(threads, [&](int64_t i) { sink[64 * i] = run(a, kCount, kRounds); }); });
  return threads * static_cast<double>(kCount * kRounds) / t;
}

std::vector<float> random(const char* name, int64_t n, double lo, double hi) {
  Rng rng(1, name);
  std::vector<float> v(n);
  for (float& x : v) x = static_cast<float>(rng.uniform(lo, hi));
  return v;
}

// The usual scalar form of a CPU back end: tokens outside, then channels, one
// expf for each state; the channels are split over the threads.
void scalar_scan(const ScanParams<float>& p, std::vector<float>& states) {
  const auto [B, L, D, N, G, unit] = p.shape;
  const int64_t parts = num_threads(), each = (D + parts - 1) / parts;
  parallel_for(B * parts, [&](int64_t task) {
    const int64_t b = task / parts, first = task % parts * each, last = std::min<int64_t>(D, first + each);
    float* const state = states.data() + b * D * N;
    std::fill(state + first * N, state + last * N, 0.0f);
    for (int64_t t = 0; t < L; t++) {
      const float *Bt = p.B.row(b, t, 0), *Ct = p.C.row(b, t, 0);
      for (int64_t d = first; d < last; d++) {
        const float dt = p.delta.row(b, t)[d], input = dt * p.u.row(b, t)[d];
        float sum = 0;
        for (int64_t n = 0; n < N; n++) {
          float& x = state[d * N + n];
          x = x * std::exp(dt * p.A[d * N + n]) + Bt[n] * input;
          sum += x * Ct[n];
        }
        p.out.row(b, t)[d] = sum;
      }
    }
  });
}

// `ordered` visits the tokens by a permutation, as cross scans do.
void measure(ScanShape s, bool full, double budget, double rate, double library_rate, bool ordered = false) {
  const int64_t rows = s.batch * s.length, BLD = rows * s.channels, BLN = rows * s.groups * s.state,
                DN = s.channels * s.state;
  const auto u = random("u", BLD, -1, 1), delta = random("delta", BLD, full ? -6.0 : 0.001, full ? -2.0 : 0.1);
  const auto z = random("z", BLD, -2, 2), dout = random("dout", BLD, -1, 1);
  const auto B = random("B", BLN, -1, 1), C = random("C", BLN, -1, 1), D = random("D", s.channels, 0, 1);
  std::vector<float> A(DN), out(BLD), checkpoints(dense_plan(s).checkpoint_size(s));
  for (int64_t i = 0; i < DN; i++) A[i] = -static_cast<float>(i % s.state + 1);
  std::vector<int32_t> order(s.length);
  for (int64_t i = 0; i < s.length; i++) order[i] = static_cast<int32_t>(i * 8 % s.length);  // odd lengths only
  ScanParams<float> p;
  p.shape = s;
  if (ordered) p.order = order.data();
  const ScanRows<const float> dense{nullptr, s.length * s.channels, s.channels};
  p.u = p.delta = dense;
  p.u.data = u.data();
  p.delta.data = delta.data();
  p.A = A.data();
  const int64_t token = s.groups * s.state;
  p.B = p.C = {nullptr, false, s.length * token, token, s.state};
  p.B.data = B.data();
  p.C.data = C.data();
  p.out = {out.data(), dense.batch, dense.token};
  if (full) {
    p.softplus = true;
    p.z = dense;
    p.z.data = z.data();
    p.D = p.delta_bias = D.data();
  }
  double scalar = 0;
  if (!full && !ordered) {
    std::vector<float> states(s.batch * DN);
    scalar = best_seconds(budget, [&] { scalar_scan(p, states); });
  }
  const double forward = best_seconds(budget, [&] { scan(p); });
  std::vector<float> du(BLD), ddelta(BLD), dz(BLD), dA(DN), dB(BLN), dC(BLN), dD(s.channels), dbias(s.channels);
  std::vector<float> workspace(scan_vjp_workspace(s, s.batch, false, false));
  ScanVjpParams<float> q;
  q.in = p;
  q.in.checkpoints = checkpoints.data();
  q.dout = dense;
  q.dout.data = dout.data();
  q.du = {du.data(), dense.batch, dense.token};
  q.ddelta = {ddelta.data(), dense.batch, dense.token};
  if (full) {
    q.dz = {dz.data(), dense.batch, dense.token};
    q.dD = dD.data();
    q.ddelta_bias = dbias.data();
  }
  q.dA = dA.data();
  q.dB = dB.data();
  q.dC = dC.data();
  q.workspace = workspace.data();
  const double saving = best_seconds(budget, [&] { scan(q.in); });
  const double backward = best_seconds(budget, [&] { scan_vjp(q); });
  const double n = static_cast<double>(BLD * s.state);
  std::printf("%2lld %4lld %5lld %3lld %-6s %7.4f %9.1f %9.1f %9.3f %9.3f %9.3f %9.3f %6.2f %9s\n",
              static_cast<long long>(s.batch), static_cast<long long>(s.length),
              static_cast<long long>(s.channels), static_cast<long long>(s.state),
              ordered ? "order"
              : full  ? "full"
                      : "core",
              forward / n * 1e9, 100 * n / rate / forward, 100 * n / library_rate / forward, 1e3 * forward,
              1e3 * saving, 1e3 * backward, 1e3 * (saving + backward), (saving + backward) / forward,
              scalar > 0 ? std::to_string(scalar / forward).substr(0, 4).c_str() : "-");
}

}  // namespace
}  // namespace aspis::kernel

int main(int argc, char** argv) {
  using namespace aspis;
  using namespace aspis::kernel;
  const double budget = argc > 1 ? std::atof(argv[1]) : 0.3;
  const double rate = exp_rate(budget, false), library = exp_rate(budget, true);
  std::printf("%s, %d threads, exp of the kernel %.2f G/s (%.4f ns), library exp %.2f G/s\n", active_isa().c_str(),
              num_threads(), rate / 1e9, 1e9 / rate, library / 1e9);
  std::printf(
      " B    L     D   N options  ns/exp   %% bound %% library    fwd ms   +chk ms    bwd ms     total  ratio  x "
      "scalar\n");
  for (const bool full : {false, true}) {
    measure({2, 196, 1536, 16, 1}, full, budget, rate, library);
    measure({8, 196, 384, 16, 1}, full, budget, rate, library);
    measure({1, 512, 1536, 16, 1}, full, budget, rate, library);
  }
  measure({64, 49, 128, 16, 1}, true, budget, rate, library, true);
  measure({2, 196, 1536, 8, 1}, true, budget, rate, library);
  measure({2, 196, 768, 64, 1}, true, budget, rate, library);
  measure({2, 196, 1536, 1, 1}, true, budget, rate, library);
  measure({8, 3136, 192, 1, 4}, true, budget, rate, library);
  measure({1, 65536, 96, 16, 1}, true, budget, rate, library);
}
#endif
