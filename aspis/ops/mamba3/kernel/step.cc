// One token of every sequence: the state is read and written once.

#include "aspis/ops/mamba3/kernel/step.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "aspis/base/parallel.h"
#include "aspis/ops/mamba3/kernel/cpu.h"
#include "aspis/ops/mamba3/kernel/rotary.h"
#include "aspis/ops/ssd/kernel/chunk.h"
#include "aspis/ops/ssd/kernel/parts.h"
#include "aspis/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/mamba3/kernel/step.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "aspis/ops/mamba3/kernel/step-inl.h"

#if HWY_ONCE
namespace aspis::kernel {

HWY_EXPORT(fill_step);

template <typename T>
const StepLoops<T>& step_loops() {
  struct Tables {
    decltype(&HWY_STATIC_DISPATCH(fill_step)) made_by = nullptr;
    StepLoops<float> single;
    StepLoops<double> wide;
  };
  thread_local Tables tables;
  const auto fill = HWY_DYNAMIC_DISPATCH(fill_step);
  if (tables.made_by != fill) {
    fill(tables.single, tables.wide);
    tables.made_by = fill;
  }
  if constexpr (std::is_same_v<T, float>) {
    return tables.single;
  } else {
    return tables.wide;
  }
}

namespace {

using ssd_parts::Arena;
using ssd_parts::scratch;

template <typename T>
void step_head(const Mamba3StepParams<T>& p, int64_t b, int64_t h) {
  const auto& turning = rotary_loops<T>();
  const auto& loops = step_loops<T>();
  const int64_t H = p.heads, P = p.headdim, N = p.state, R = p.rank, S = p.angles, g = h / (H / p.groups);
  const int64_t head = b * H + h;
  const bool adjacent = p.pairs == RotaryPairs::kAdjacent;
  Arena<T> memory{scratch<T>(2 * R * N + 3 * R * P + P + 4 * S + 16 * 16)};
  T *const k = memory.take(R * N), *const q = memory.take(R * N), *const before = memory.take(R * P),
           *const now = memory.take(R * P), *const y = memory.take(R * P), *const u = memory.take(P),
           *const phi = memory.take(S), *const turns = memory.take(S), *const cosine = memory.take(S),
           *const sine = memory.take(S);

  T dt = 0, log = 0, gamma = 0, beta = 0, alpha = 0;
  token_weights(Mamba3WeightsParams<T>{1, 1, p.heavy_tail, p.A_floor, p.dd_dt + head, p.dd_A + head, p.trap + head,
                                       p.dt_bias ? p.dt_bias + h : nullptr, &dt, &log, &gamma, &beta});
  chunk_loops<T>().exponentials(1, &log, &alpha);
  if (S > 0) {
    turning.turns(S, p.angle + b * S, turns);
    std::copy_n(p.phi + head * S, S, phi);
    turning.advance(S, dt, turns, phi);
    turning.sincos(S, phi, cosine, sine);
    std::copy_n(phi, S, p.next_phi + head * S);
  }
  for (int64_t r = 0; r < R; r++) {
    const int64_t from = ((b * R + r) * p.groups + g) * N, bias = (h * R + r) * N;
    loops.prepare(N, p.B + from, p.B_norm, p.eps, p.B_bias ? p.B_bias + bias : nullptr, k + r * N);
    loops.prepare(N, p.C + from, p.C_norm, p.eps, p.C_bias ? p.C_bias + bias : nullptr, q + r * N);
    if (S > 0) {
      turning.turn(S, adjacent, N, cosine, sine, T(1), k + r * N);
      turning.turn(S, adjacent, N, cosine, sine, T(1), q + r * N);
    }
    const T *const x = p.x + head * P, *const old = p.v + head * P,
                   *const m = p.mimo_x ? p.mimo_x + (h * R + r) * P : nullptr;
    for (int64_t i = 0; i < P; i++) {
      const T scale = m ? m[i] : T(1);
      before[r * P + i] = alpha * beta * (old[i] * scale);
      now[r * P + i] = gamma * (x[i] * scale);
    }
  }
  loops.state({P, N, R, alpha, before, now, p.k + (b * R * H + h) * N, H * N, k, q, p.ssm + head * P * N,
               p.next_ssm + head * P * N, y});
  for (int64_t r = 0; r < R; r++) std::copy_n(k + r * N, N, p.next_k + ((b * R + r) * H + h) * N);

  CombineParams<T> c;
  c.shape.batch = c.shape.length = c.shape.heads = 1, c.shape.rank = R, c.shape.headdim = P;
  c.eps = p.eps, c.y = y, c.x = p.x + head * P, c.out = p.out + head * P;
  const auto of_head = [&](const T* a, int64_t size) { return a ? a + h * size : nullptr; };
  c.D = of_head(p.D, 1), c.norm = of_head(p.out_norm, P);
  c.mimo_x = of_head(p.mimo_x, R * P), c.mimo_z = of_head(p.mimo_z, R * P), c.mimo_o = of_head(p.mimo_o, R * P);
  if (p.z) c.z = p.z + head * P;
  combine_head(c, u);
}

}  // namespace

template <typename T>
void mamba3_step(const Mamba3StepParams<T>& p) {
  parallel_for(p.batch * p.heads, [&](int64_t task) { step_head(p, task / p.heads, task % p.heads); });
}

template const StepLoops<float>& step_loops<float>();
template const StepLoops<double>& step_loops<double>();
template void mamba3_step(const Mamba3StepParams<float>&);
template void mamba3_step(const Mamba3StepParams<double>&);

}  // namespace aspis::kernel
#endif
