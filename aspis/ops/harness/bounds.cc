#include "aspis/ops/harness/bounds.h"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "aspis/base/clock.h"
#include "aspis/base/parallel.h"
#include "aspis/simd/isa.h"
#include "aspis/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/harness/bounds.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "aspis/simd/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::harness::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Ten independent chains hide the latency of a fused multiply-add (4 cycles,
// two a cycle) and fit into 16 registers.
HWY_ATTR float fma_chains(int64_t rounds) {
  const hn::ScalableTag<float> d;
  // Equal start values would let the compiler merge the chains into one.
  auto a0 = hn::Iota(d, 0.f), a1 = hn::Iota(d, 1.f), a2 = hn::Iota(d, 2.f), a3 = hn::Iota(d, 3.f);
  auto a4 = hn::Iota(d, 4.f), a5 = hn::Iota(d, 5.f), a6 = hn::Iota(d, 6.f), a7 = hn::Iota(d, 7.f);
  auto a8 = hn::Iota(d, 8.f), a9 = hn::Iota(d, 9.f);
  const auto m = hn::Set(d, 0.999f), c = hn::Set(d, 0.001f);
  for (int64_t i = 0; i < rounds; i++) {
    a0 = hn::MulAdd(a0, m, c), a1 = hn::MulAdd(a1, m, c), a2 = hn::MulAdd(a2, m, c), a3 = hn::MulAdd(a3, m, c);
    a4 = hn::MulAdd(a4, m, c), a5 = hn::MulAdd(a5, m, c), a6 = hn::MulAdd(a6, m, c), a7 = hn::MulAdd(a7, m, c);
    a8 = hn::MulAdd(a8, m, c), a9 = hn::MulAdd(a9, m, c);
  }
  const auto sum = hn::Add(hn::Add(hn::Add(a0, a1), hn::Add(a2, a3)),
                           hn::Add(hn::Add(a4, a5), hn::Add(hn::Add(a6, a7), hn::Add(a8, a9))));
  return hn::GetLane(hn::SumOfLanes(d, sum));
}
HWY_ATTR double fma_flops_per_round() { return 20.0 * static_cast<double>(hn::Lanes(hn::ScalableTag<float>())); }

// exp over a buffer that stays in L1; only the sum leaves the registers.
HWY_ATTR float exp_sum(const float* x, int64_t n, int64_t rounds) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  auto s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
  for (int64_t r = 0; r < rounds; r++) {
    for (int64_t i = 0; i + 4 * lanes <= n; i += 4 * lanes) {
      s0 = hn::Add(s0, aspis::HWY_NAMESPACE::ExpNonPositive(d, hn::LoadU(d, x + i)));
      s1 = hn::Add(s1, aspis::HWY_NAMESPACE::ExpNonPositive(d, hn::LoadU(d, x + i + lanes)));
      s2 = hn::Add(s2, aspis::HWY_NAMESPACE::ExpNonPositive(d, hn::LoadU(d, x + i + 2 * lanes)));
      s3 = hn::Add(s3, aspis::HWY_NAMESPACE::ExpNonPositive(d, hn::LoadU(d, x + i + 3 * lanes)));
    }
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3))));
}

HWY_ATTR void triad(const float* b, const float* c, float* a, int64_t n) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto s = hn::Set(d, 3.f);
  for (int64_t i = 0; i + lanes <= n; i += lanes) {
    hn::StoreU(hn::MulAdd(s, hn::LoadU(d, c + i), hn::LoadU(d, b + i)), d, a + i);
  }
}

}  // namespace aspis::harness::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace aspis::harness {

HWY_EXPORT(fma_chains);
HWY_EXPORT(fma_flops_per_round);
HWY_EXPORT(exp_sum);
HWY_EXPORT(triad);

namespace {

// Best of the runs on the whole team that fit into a fifth of a second, in seconds.
// A team that has slept can begin on one core: the system takes some milliseconds to
// spread it, and a bound taken in that time would be half of what there is.
template <typename F>
double best_time(F run) {
  double best = 1e30;
  const double until = monotonic_seconds() + 0.2;
  for (double start = monotonic_seconds(); start < until; start = monotonic_seconds()) {
    run();
    best = std::min(best, monotonic_seconds() - start);
  }
  return best;
}

MachineBounds measure() {
  MachineBounds m;
  m.isa = active_isa();
  m.threads = num_threads();
  const int64_t tasks = 8 * int64_t{m.threads};
  const auto team = static_cast<double>(tasks);
  std::vector<float> sink(tasks);

  constexpr int64_t kFmaRounds = 250'000;
  const auto fma = &HWY_DYNAMIC_DISPATCH(fma_chains);
  double t = best_time([&] { parallel_for(tasks, [&](int64_t i) { sink[i] = fma(kFmaRounds); }); });
  m.fma_flops = team * static_cast<double>(kFmaRounds) * HWY_DYNAMIC_DISPATCH(fma_flops_per_round)() / t;

  constexpr int64_t kExpCount = 2048, kExpRounds = 500;
  std::vector<float> x(kExpCount);
  for (int64_t i = 0; i < kExpCount; i++) x[i] = -static_cast<float>(i % 97) * 0.11f;
  const auto exps = &HWY_DYNAMIC_DISPATCH(exp_sum);
  t = best_time([&] { parallel_for(tasks, [&](int64_t i) { sink[i] = exps(x.data(), kExpCount, kExpRounds); }); });
  m.exps = team * static_cast<double>(kExpCount * kExpRounds) / t;

  constexpr int64_t kTriadCount = 16 << 20, kTriadBlock = 1 << 16;
  std::vector<float> a(kTriadCount), b(kTriadCount, 1.f), c(kTriadCount, 2.f);
  const auto run_triad = &HWY_DYNAMIC_DISPATCH(triad);
  t = best_time([&] {
    parallel_for(kTriadCount / kTriadBlock, [&](int64_t i) {
      run_triad(b.data() + i * kTriadBlock, c.data() + i * kTriadBlock, a.data() + i * kTriadBlock, kTriadBlock);
    });
  });
  m.bytes = 3.0 * sizeof(float) * kTriadCount / t;
  return m;
}

}  // namespace

const MachineBounds& machine_bounds() {
  static std::map<std::pair<std::string, int>, MachineBounds> known;
  const auto key = std::make_pair(active_isa(), num_threads());
  auto found = known.find(key);
  if (found == known.end()) found = known.emplace(key, measure()).first;
  return found->second;
}

double bound_seconds(const Cost& cost, const MachineBounds& m, std::string* limit) {
  const std::pair<double, const char*> parts[] = {
      {cost.exps / m.exps, "exp"}, {cost.flops / m.fma_flops, "fma"}, {cost.bytes / m.bytes, "bandwidth"}};
  const auto worst = *std::max_element(std::begin(parts), std::end(parts));
  if (limit) *limit = worst.second;
  return worst.first;
}

}  // namespace aspis::harness
#endif
