// Phases that grow with the time steps, and the rotation of key and query by them.

#include "aspis/ops/mamba3/kernel/rotary.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/ops/linear/kernel/matrix.h"
#include "aspis/ops/mamba3/kernel/cpu.h"
#include "aspis/ops/mamba3/kernel/sequences.h"
#include "aspis/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/mamba3/kernel/rotary.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "aspis/ops/mamba3/kernel/rotary-inl.h"

#if HWY_ONCE
namespace aspis::kernel {

HWY_EXPORT(fill_rotary);

template <typename T>
const RotaryLoops<T>& rotary_loops() {
  struct Tables {
    decltype(&HWY_STATIC_DISPATCH(fill_rotary)) made_by = nullptr;
    RotaryLoops<float> single;
    RotaryLoops<double> wide;
  };
  thread_local Tables tables;
  const auto fill = HWY_DYNAMIC_DISPATCH(fill_rotary);
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

constexpr int64_t kTokens = 64;  // of a task
constexpr int64_t kRotaryTokens = 16;

struct Span {
  int64_t first, last;  // tokens of all
};
template <typename T>
Span span_of(const Mamba3PhaseParams<T>& p, int64_t row) {
  const Mamba3Shape& s = p.shape;
  if (s.sequences > 0) return {p.cu_seqlens[row], p.cu_seqlens[row + 1]};
  return {row * s.length, (row + 1) * s.length};
}

template <typename T>
std::vector<T> all_turns(const Mamba3PhaseParams<T>& p) {
  return mamba3_parts::all_turns(p.shape.tokens() * p.shape.angles, p.angle);
}

// Chunks of tokens whose bias gradients are summed apart, by the tokens alone.
int64_t bias_chunks(const Mamba3Shape& s) { return std::clamp<int64_t>(s.tokens() / 64, 1, 16); }

}  // namespace

template <typename T>
void mamba3_phase(const Mamba3PhaseParams<T>& p) {
  const Mamba3Shape& s = p.shape;
  const std::vector<T> turns = all_turns(p);
  parallel_for(s.rows() * s.heads, [&](int64_t task) {
    const auto& loops = rotary_loops<T>();
    const int64_t h = task % s.heads;
    const auto [first, last] = span_of(p, task / s.heads);
    std::vector<T> phi(p.initial + task * s.angles, p.initial + (task + 1) * s.angles);
    for (int64_t t = first; t < last; t++) {
      loops.advance(s.angles, p.dt[t * s.heads + h], turns.data() + t * s.angles, phi.data());
      std::copy(phi.begin(), phi.end(), p.phi + (t * s.heads + h) * s.angles);
    }
    if (p.last) std::copy(phi.begin(), phi.end(), p.last + task * s.angles);
  });
}

template <typename T>
void mamba3_phase_vjp(const Mamba3PhaseVjpParams<T>& d) {
  const Mamba3PhaseParams<T>& p = d.in;
  const Mamba3Shape& s = p.shape;
  const int64_t S = s.angles;
  const std::vector<T> turns = all_turns(p);
  // The gradient of every turn dt pi tanh(angle): sums over the later tokens.
  std::vector<T> later(static_cast<size_t>(s.tokens() * s.heads * S));
  parallel_for(s.rows() * s.heads, [&](int64_t task) {
    const int64_t h = task % s.heads;
    const auto [first, last] = span_of(p, task / s.heads);
    T* const sum = d.dinitial + task * S;  // ends as the gradient of the first phase
    std::fill_n(sum, S, T(0));
    if (d.dlast) std::copy_n(d.dlast + task * S, S, sum);
    for (int64_t t = last - 1; t >= first; t--) {
      const int64_t at = t * s.heads + h;
      T ddt = 0;
      for (int64_t i = 0; i < S; i++) {
        sum[i] += d.dphi[at * S + i];
        later[static_cast<size_t>(at * S + i)] = sum[i];
        ddt += sum[i] * turns[static_cast<size_t>(t * S + i)];
      }
      d.ddt[at] = ddt;
    }
  });
  parallel_for(div_ceil(s.tokens(), kTokens), [&](int64_t task) {
    for (int64_t t = task * kTokens; t < std::min(s.tokens(), (task + 1) * kTokens); t++) {
      T* const g = d.dangle + t * S;
      std::fill_n(g, S, T(0));
      for (int64_t h = 0; h < s.heads; h++) {
        const T dt = p.dt[t * s.heads + h];
        for (int64_t i = 0; i < S; i++) g[i] += dt * later[static_cast<size_t>((t * s.heads + h) * S + i)];
      }
      rotary_loops<T>().turns_vjp(S, p.angle + t * S, g);
    }
  });
}

template <typename T>
void rotary(const RotaryParams<T>& p) {
  const Mamba3Shape& s = p.shape;
  const int64_t S = s.angles, N = s.state, R = s.rank, H = s.heads, per_group = H / p.groups;
  const bool adjacent = p.pairs == RotaryPairs::kAdjacent;
  parallel_for(div_ceil(s.tokens(), kRotaryTokens), [&](int64_t task) {
    const auto& loops = rotary_loops<T>();
    std::vector<T> cosine(static_cast<size_t>(S)), sine(cosine);
    for (int64_t t = task * kRotaryTokens; t < std::min(s.tokens(), (task + 1) * kRotaryTokens); t++) {
      for (int64_t h = 0; h < H; h++) {
        if (S > 0) loops.sincos(S, p.phi + (t * H + h) * S, cosine.data(), sine.data());
        for (int64_t r = 0; r < R; r++) {
          T* const y = p.y + ((t * H + h) * R + r) * N;
          loops.sum(N, p.x + ((t * R + r) * p.groups + h / per_group) * N,
                    p.bias ? p.bias + (h * R + r) * N : nullptr, y);
          if (S > 0) loops.turn(S, adjacent, N, cosine.data(), sine.data(), T(1), y);
        }
      }
    }
  });
}

template <typename T>
void rotary_vjp(const RotaryVjpParams<T>& d) {
  const RotaryParams<T>& p = d.in;
  const Mamba3Shape& s = p.shape;
  const int64_t S = s.angles, N = s.state, R = s.rank, H = s.heads, per_group = H / p.groups;
  const bool adjacent = p.pairs == RotaryPairs::kAdjacent;
  const int64_t chunks = bias_chunks(s), each = div_ceil(s.tokens(), chunks), bias = H * R * N;
  std::vector<T> partial(static_cast<size_t>(d.dbias ? chunks * bias : 0), T(0));
  parallel_for(chunks, [&](int64_t chunk) {
    const auto& loops = rotary_loops<T>();
    std::vector<T> cosine(static_cast<size_t>(S)), sine(cosine), back(static_cast<size_t>(N));
    for (int64_t t = chunk * each; t < std::min(s.tokens(), (chunk + 1) * each); t++) {
      std::fill_n(d.dx + t * R * p.groups * N, R * p.groups * N, T(0));
      for (int64_t h = 0; h < H; h++) {
        if (S > 0) {
          loops.sincos(S, p.phi + (t * H + h) * S, cosine.data(), sine.data());
          std::fill_n(d.dphi + (t * H + h) * S, S, T(0));
        }
        for (int64_t r = 0; r < R; r++) {
          const int64_t at = ((t * H + h) * R + r) * N;
          std::copy_n(d.dy + at, N, back.begin());
          if (S > 0) {
            loops.turn_gradient(S, adjacent, N, p.y + at, d.dy + at, d.dphi + (t * H + h) * S);
            loops.turn(S, adjacent, N, cosine.data(), sine.data(), T(-1), back.data());
          }
          loops.add_to(N, back.data(), d.dx + ((t * R + r) * p.groups + h / per_group) * N);
          if (d.dbias) loops.add_to(N, back.data(), partial.data() + chunk * bias + (h * R + r) * N);
        }
      }
    }
  });
  if (d.dbias) sum_parts(partial.data(), chunks, bias, d.dbias);
}

template const RotaryLoops<float>& rotary_loops<float>();
template const RotaryLoops<double>& rotary_loops<double>();
template void mamba3_phase(const Mamba3PhaseParams<float>&);
template void mamba3_phase(const Mamba3PhaseParams<double>&);
template void mamba3_phase_vjp(const Mamba3PhaseVjpParams<float>&);
template void mamba3_phase_vjp(const Mamba3PhaseVjpParams<double>&);
template void rotary(const RotaryParams<float>&);
template void rotary(const RotaryParams<double>&);
template void rotary_vjp(const RotaryVjpParams<float>&);
template void rotary_vjp(const RotaryVjpParams<double>&);

}  // namespace aspis::kernel
#endif
