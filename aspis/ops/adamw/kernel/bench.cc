// Time of an AdamW step beside the time the memory needs for its seven streams,
// measured in the same run, and its cost on many tiny arrays.
//
//   aspis_adamw_bench [threads] [parameters]

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "aspis/base/clock.h"
#include "aspis/base/parallel.h"
#include "aspis/ops/adamw/kernel/cpu.h"

namespace {

template <typename F>
double best_seconds(double budget, F f) {
  double best = 1e9;
  const double end = aspis::monotonic_seconds() + budget;
  while (aspis::monotonic_seconds() < end) {
    const double start = aspis::monotonic_seconds();
    f();
    best = std::min(best, aspis::monotonic_seconds() - start);
  }
  return best;
}

struct Buffers {
  std::vector<float> p, g, m, v, out;
  explicit Buffers(int64_t n) : p(n, 1.f), g(n, 0.1f), m(n, 0.f), v(n, 0.f), out(3 * n) {}
};

aspis::kernel::UpdateParams<float> params_of(Buffers& b, int64_t arrays, bool in_place) {
  const int64_t total = static_cast<int64_t>(b.p.size()), n = total / arrays;
  aspis::kernel::UpdateParams<float> params;
  params.learning_rate = 1e-6;
  for (int64_t i = 0; i < arrays; i++) {
    const int64_t at = i * n;
    float* const in[] = {b.p.data() + at, b.m.data() + at, b.v.data() + at};
    aspis::kernel::UpdateArray<float> a{n, b.g.data() + at, {in[0], in[1], in[2]}, {in[0], in[1], in[2]}, true};
    for (int k = 0; k < 3 && !in_place; k++) a.out[k] = b.out.data() + k * total + at;
    params.arrays.push_back(a);
  }
  return params;
}

}  // namespace

int main(int argc, char** argv) {
  aspis::set_num_threads(argc > 1 ? std::atoi(argv[1]) : aspis::available_cores());
  const int64_t n = argc > 2 ? std::atoll(argv[2]) : 10'000'000;
  const double bytes = 28.0 * static_cast<double>(n);
  Buffers b(n);
  // The bound: the same seven streams with next to no arithmetic.
  constexpr int64_t kBlock = 1 << 14;
  const double floor = best_seconds(1.5, [&] {
    aspis::parallel_for(aspis::div_ceil(n, kBlock), [&](int64_t block) {
      const int64_t first = block * kBlock, last = std::min(n, first + kBlock);
      float *p = b.p.data(), *m = b.m.data(), *v = b.v.data();
      const float* g = b.g.data();
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC ivdep
#endif
      for (int64_t i = first; i < last; i++) {
        const float x = g[i];
        p[i] += x;
        m[i] += x;
        v[i] += x;
      }
    });
  });
  std::fill(b.v.begin(), b.v.end(), 1.f);
  std::printf("%d threads, %ld parameters\n", aspis::num_threads(), n);
  std::printf("  seven streams alone   %7.3f ms  %5.1f GB/s\n", 1e3 * floor, bytes / floor * 1e-9);
  for (const bool in_place : {true, false}) {
    const auto params = params_of(b, 1, in_place);
    const double time = best_seconds(1.5, [&] { aspis::kernel::adamw(params, {}); });
    std::printf("  adamw %-14s  %7.3f ms  %5.1f GB/s  %.2f of the bound\n",
                in_place ? "in place" : "to new memory", 1e3 * time, bytes / time * 1e-9, time / floor);
  }
  Buffers tiny(500 * 64);
  const auto params = params_of(tiny, 500, true);
  const double time = best_seconds(0.3, [&] { aspis::kernel::adamw(params, {}); });
  std::printf("  500 arrays of 64      %7.3f ms\n", 1e3 * time);
}
