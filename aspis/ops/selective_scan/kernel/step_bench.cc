// Times one token of the operators with state beside the bound of moving the
// state: a loop that reads and writes the same bytes on the same threads.
//
//   aspis_step_bench [seconds per line]
//
// States of many layers are walked through, more than any cache holds, as a model
// does. Counts what is allocated meanwhile.

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <new>
#include <vector>

#include "aspis/base/clock.h"
#include "aspis/base/parallel.h"
#include "aspis/base/rng.h"
#include "aspis/ops/causal_conv1d/kernel/cpu.h"
#include "aspis/ops/mamba3/kernel/cpu.h"
#include "aspis/ops/selective_scan/kernel/cpu.h"
#include "aspis/ops/ssd/kernel/cpu.h"

namespace {
std::atomic<int64_t> allocations{0};
}  // namespace

void* operator new(size_t bytes) {
  allocations++;
  void* p = std::malloc(bytes);
  if (!p) throw std::bad_alloc();
  return p;
}
void operator delete(void* p) noexcept { std::free(p); }
void operator delete(void* p, size_t) noexcept { std::free(p); }

namespace aspis::kernel {
namespace {

constexpr int64_t kTotal = int64_t{96} << 20;  // bytes of all states

std::vector<float> random(const char* name, int64_t n, double lo, double hi) {
  Rng rng(1, name);
  std::vector<float> v(n);
  for (float& x : v) x = static_cast<float>(rng.uniform(lo, hi));
  return v;
}

struct Timed {
  double seconds = 0;
  int64_t allocations = 0;
};

// Best mean time of run(layer) over all layers.
Timed best(double budget, int64_t layers, const std::function<void(int64_t)>& run) {
  Timed t{1e30, 0};
  for (int64_t i = 0; i < layers; i++) run(i);
  const double start = monotonic_seconds();
  for (int round = 0; round < 3 || monotonic_seconds() - start < budget; round++) {
    const int64_t before = allocations;
    const double from = monotonic_seconds();
    for (int64_t i = 0; i < layers; i++) run(i);
    t.seconds = std::min(t.seconds, (monotonic_seconds() - from) / static_cast<double>(layers));
    t.allocations = allocations - before;
  }
  return t;
}

void measure(const char* name, int64_t batch, int64_t state, double budget,
             const std::function<void(int64_t, float*)>& step) {
  const int64_t layers = std::max<int64_t>(1, kTotal / (4 * state));
  std::vector<float> states(static_cast<size_t>(layers * state), 0.5f);
  const Timed t = best(budget, layers, [&](int64_t i) { step(i, states.data() + i * state); });
  const Timed moved = best(budget, layers, [&](int64_t i) {
    float* const at = states.data() + i * state;
    constexpr int64_t kPiece = 1 << 14;
    parallel_for(div_ceil(state, kPiece), [&](int64_t k) {
      const int64_t end = std::min(state, (k + 1) * kPiece);
      for (int64_t j = k * kPiece; j < end; j++) at[j] = at[j] * 0.5f + 0.25f;
    });
  });
  const double bytes = 8 * static_cast<double>(state);
  std::printf("%-28s %5lld %9.1f us %7.1f GB/s   moving alone %9.1f us %7.1f GB/s   share %3.0f %%   allocations %lld\n",
              name, static_cast<long long>(batch), 1e6 * t.seconds, bytes / t.seconds / 1e9, 1e6 * moved.seconds,
              bytes / moved.seconds / 1e9, 100 * moved.seconds / t.seconds, static_cast<long long>(t.allocations));
}

void bench_scan(int64_t batch, int64_t channels, int64_t states, double budget) {
  const auto u = random("u", batch * channels, -1, 1), delta = random("delta", batch * channels, -6, -2);
  const auto B = random("B", batch * states, -1, 1), C = random("C", batch * states, -1, 1),
             D = random("D", channels, 0, 1);
  const auto A = random("A", channels * states, -16, -1);
  std::vector<float> out(batch * channels);
  ScanStepParams<float> p;
  p.batch = batch, p.channels = channels, p.state_size = states, p.softplus = true;
  p.u = u.data(), p.delta = delta.data(), p.z = u.data(), p.A = A.data(), p.B = B.data(), p.C = C.data();
  p.D = p.delta_bias = D.data(), p.out = out.data();
  char name[64];
  std::snprintf(name, sizeof(name), "scan D %lld N %lld", static_cast<long long>(channels),
                static_cast<long long>(states));
  measure(name, batch, batch * channels * states, budget, [&](int64_t, float* state) {
    p.state = p.next_state = state;
    scan_step(p);
  });
}

void bench_ssd(int64_t batch, int64_t heads, double budget) {
  constexpr int64_t P = 64, N = 128;
  const auto x = random("x", batch * heads * P, -1, 1), dt = random("dt", batch * heads, -6, -2);
  const auto B = random("B", batch * N, -1, 1), C = random("C", batch * N, -1, 1), A = random("A", heads, -16, -1);
  std::vector<float> out(batch * heads * P);
  SsdStepParams<float> p;
  p.batch = batch, p.heads = heads, p.headdim = P, p.state_size = N, p.softplus = true;
  p.x = p.z = x.data(), p.dt = dt.data(), p.A = p.D = p.dt_bias = A.data(), p.B = B.data(), p.C = C.data();
  p.out = out.data();
  char name[64];
  std::snprintf(name, sizeof(name), "ssd H %lld P 64 N 128", static_cast<long long>(heads));
  measure(name, batch, batch * heads * P * N, budget, [&](int64_t, float* state) {
    p.state = p.next_state = state;
    ssd_step(p);
  });
}

void bench_mamba3(int64_t batch, int64_t heads, int64_t rank, double budget) {
  constexpr int64_t P = 64, N = 128, A = 32;
  const auto x = random("x", batch * heads * P, -1, 1), B = random("B", batch * rank * N, -1, 1);
  const auto dt = random("dt", batch * heads, -6, -2), angle = random("angle", batch * A, -1, 1);
  const auto bias = random("bias", heads * rank * std::max(N, P), -1, 1);
  std::vector<float> out(batch * heads * P), k(batch * rank * heads * N), phi(batch * heads * A);
  Mamba3StepParams<float> p;
  p.batch = batch, p.heads = heads, p.rank = rank, p.headdim = P, p.state = N, p.angles = A;
  p.A_floor = 1e-4f, p.eps = 1e-5f;
  p.x = p.z = p.v = x.data(), p.B = p.C = B.data(), p.dd_dt = p.dd_A = p.trap = dt.data(), p.angle = angle.data();
  p.dt_bias = p.D = bias.data(), p.B_norm = p.C_norm = bias.data(), p.B_bias = p.C_bias = bias.data();
  if (rank > 1) p.mimo_x = p.mimo_z = p.mimo_o = bias.data();
  p.phi = p.next_phi = phi.data(), p.k = p.next_k = k.data(), p.out = out.data();
  char name[64];
  std::snprintf(name, sizeof(name), "mamba3 H %lld R %lld", static_cast<long long>(heads),
                static_cast<long long>(rank));
  measure(name, batch, batch * heads * P * N, budget, [&](int64_t, float* state) {
    p.ssm = p.next_ssm = state;
    mamba3_step(p);
  });
}

void bench_conv(int64_t batch, int64_t channels, double budget) {
  constexpr int64_t W = 4;
  const auto x = random("x", batch * channels, -1, 1), weight = random("w", channels * W, -1, 1);
  std::vector<float> out(batch * channels);
  Conv1dParams<float> p;
  p.batch = batch, p.length = 1, p.channels = channels, p.width = W, p.reach = W - 1, p.silu = true;
  p.x = x.data(), p.x_batch = p.x_token = channels, p.weight = weight.data(), p.bias = weight.data();
  p.initial_batch = (W - 1) * channels, p.initial_token = channels, p.out = out.data();
  std::vector<char> workspace(conv1d_workspace(p));
  std::vector<float> next(batch * (W - 1) * channels);
  p.workspace = workspace.data(), p.final_state = next.data();
  char name[64];
  std::snprintf(name, sizeof(name), "conv1d D %lld W 4", static_cast<long long>(channels));
  measure(name, batch, batch * (W - 1) * channels, budget, [&](int64_t, float* state) {
    p.initial = state;
    conv1d(p);
  });
}

}  // namespace

void step_bench(double budget) {
  for (const int64_t batch : {1, 8, 32}) {
    bench_scan(batch, 1536, 16, budget);
    bench_scan(batch, 5120, 16, budget);
    bench_ssd(batch, 24, budget);
    bench_ssd(batch, 80, budget);
    bench_mamba3(batch, 24, 1, budget);
    bench_mamba3(batch, 24, 4, budget);
    bench_conv(batch, 1792, budget);
  }
}

}  // namespace aspis::kernel

int main(int argc, char** argv) {
  std::printf("%d threads\n", aspis::num_threads());
  aspis::kernel::step_bench(argc > 1 ? std::atof(argv[1]) : 0.3);
}
