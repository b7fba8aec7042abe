#pragma once

// The definition, one token at a time, and its adjoint: the oracle of the tests.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "aspis/ops/ssd/kernel/params.h"

namespace aspis::kernel {

namespace ssd_reference_detail {

template <typename T>
T sigmoid(T x) {
  return 1 / (1 + std::exp(-x));
}

template <typename T>
struct Step {
  T dt, slope;  ///< after bias, softplus and clip; its derivative by the raw value
};

template <typename T>
Step<T> time_step(const SsdParams<T>& p, int64_t b, int64_t t, int64_t h) {
  const T raw = p.dt[(b * p.shape.length + t) * p.shape.heads + h] + (p.dt_bias ? p.dt_bias[h] : T(0));
  const bool curved = p.softplus && !(raw > T(20));
  const T value = curved ? std::log1p(std::exp(raw)) : raw;
  const bool inside = value >= p.dt_min && value <= p.dt_max;
  return {std::min(std::max(value, p.dt_min), p.dt_max), inside ? (curved ? sigmoid(raw) : T(1)) : T(0)};
}

struct Span {
  int64_t batch, first, last;
};

template <typename T>
Span span_of(const SsdParams<T>& p, int64_t row) {
  if (p.shape.sequences > 0) return {0, p.cu_seqlens[row], p.cu_seqlens[row + 1]};
  return {row, 0, p.shape.length};
}

template <typename T>
bool padding(const SsdParams<T>& p, int64_t b, int64_t t) {
  return p.seq_idx && p.seq_idx[b * p.shape.length + t] < 0;
}

// Whether the state is zero again before token t.
template <typename T>
bool reset(const SsdParams<T>& p, int64_t b, int64_t t) {
  if (!p.seq_idx) return false;
  const int32_t* ids = p.seq_idx + b * p.shape.length;
  return ids[t] != (t == 0 ? 0 : ids[t - 1]);
}

template <typename T>
T skip(const SsdParams<T>& p, int64_t h, int64_t i) {
  return !p.D ? T(0) : p.channel_D ? p.D[h * p.shape.headdim + i] : p.D[h];
}

}  // namespace ssd_reference_detail

/// Writes out and final_state, and before_gate if it is there.
template <typename T>
void ssd_reference(const SsdParams<T>& p) {
  namespace r = ssd_reference_detail;
  const SsdShape& s = p.shape;
  const int64_t P = s.headdim, N = s.state;
  for (int64_t row = 0; row < s.rows(); row++) {
    const auto [b, first, last] = r::span_of(p, row);
    for (int64_t h = 0; h < s.heads; h++) {
      std::vector<T> state(P * N, T(0));
      const int64_t at = (row * s.heads + h) * P * N;
      if (p.initial_state) std::copy_n(p.initial_state + at, P * N, state.begin());
      for (int64_t t = first; t < last; t++) {
        T* out = p.out + ((b * s.length + t) * s.heads + h) * P;
        if (r::reset(p, b, t)) std::fill(state.begin(), state.end(), T(0));
        if (r::padding(p, b, t)) {
          std::fill_n(out, P, T(0));
          if (p.before_gate) std::fill_n(p.before_gate + (out - p.out), P, T(0));
          continue;
        }
        const T dt = r::time_step(p, b, t, h).dt, a = std::exp(dt * p.A[h]);
        const T *x = p.x.row(b, t, h), *Bt = p.B.row(b, t, h / s.group_heads()),
                *Ct = p.C.row(b, t, h / s.group_heads());
        for (int64_t i = 0; i < P; i++) {
          T y = 0;
          for (int64_t n = 0; n < N; n++) {
            T& v = state[i * N + n];
            v = a * v + dt * x[i] * Bt[n];
            y += v * Ct[n];
          }
          y += r::skip(p, h, i) * x[i];
          if (p.before_gate) p.before_gate[(out - p.out) + i] = y;
          out[i] = p.z ? y * p.z.row(b, t, h)[i] * r::sigmoid(p.z.row(b, t, h)[i]) : y;
        }
      }
      if (p.final_state) std::copy(state.begin(), state.end(), p.final_state + at);
    }
  }
}

/// The recurrent adjoint; uses neither states nor before_gate.
template <typename T>
void ssd_vjp_reference(const SsdVjpParams<T>& q) {
  namespace r = ssd_reference_detail;
  const SsdParams<T>& p = q.in;
  const SsdShape& s = p.shape;
  const int64_t P = s.headdim, N = s.state, H = s.heads;
  const auto zero = [](T* a, int64_t n) {
    if (a) std::fill_n(a, n, T(0));
  };
  zero(q.dx, s.tokens() * H * P);
  zero(q.dz, s.tokens() * H * P);
  zero(q.dB, s.tokens() * s.groups * N);
  zero(q.dC, s.tokens() * s.groups * N);
  zero(q.ddt, s.tokens() * H);
  zero(q.dA, H);
  zero(q.dD, p.channel_D ? H * P : H);
  zero(q.ddt_bias, H);
  for (int64_t row = 0; row < s.rows(); row++) {
    const auto [b, first, last] = r::span_of(p, row);
    for (int64_t h = 0; h < H; h++) {
      const int64_t at = (row * H + h) * P * N, g = h / s.group_heads();
      // All states, h[0] before the first token.
      std::vector<std::vector<T>> states(1, std::vector<T>(P * N, T(0)));
      if (p.initial_state) std::copy_n(p.initial_state + at, P * N, states[0].begin());
      for (int64_t t = first; t < last; t++) {
        std::vector<T> next = states.back();
        const bool fresh = r::reset(p, b, t), pad = r::padding(p, b, t);
        const T dt = pad ? T(0) : r::time_step(p, b, t, h).dt, a = fresh ? T(0) : std::exp(dt * p.A[h]);
        for (int64_t i = 0; i < P; i++)
          for (int64_t n = 0; n < N; n++)
            next[i * N + n] = a * next[i * N + n] + dt * p.x.row(b, t, h)[i] * p.B.row(b, t, g)[n];
        states.push_back(next);
      }
      std::vector<T> carry(P * N, T(0)), lambda(P * N);
      if (q.dfinal_state) std::copy_n(q.dfinal_state + at, P * N, carry.begin());
      for (int64_t t = last - 1; t >= first; t--) {
        const int64_t token = b * s.length + t;
        const bool pad = r::padding(p, b, t), fresh = r::reset(p, b, t);
        const auto step = r::time_step(p, b, t, h);
        const T dt = pad ? T(0) : step.dt, a = fresh ? T(0) : std::exp(dt * p.A[h]);
        const std::vector<T>&now = states[t - first + 1], &before = states[t - first];
        const T *x = p.x.row(b, t, h), *Bt = p.B.row(b, t, g), *Ct = p.C.row(b, t, g);
        T ddt = 0, log_decay = 0;
        for (int64_t i = 0; i < P; i++) {
          T grad = pad ? T(0) : q.dout[(token * H + h) * P + i];
          if (p.z) {
            const T z = p.z.row(b, t, h)[i], sg = r::sigmoid(z);
            T y = r::skip(p, h, i) * x[i];
            for (int64_t n = 0; n < N; n++) y += now[i * N + n] * Ct[n];
            if (q.dz) q.dz[(token * H + h) * P + i] = grad * y * sg * (1 + z * (1 - sg));
            grad *= z * sg;
          }
          T into = 0;
          for (int64_t n = 0; n < N; n++) {
            const T l = carry[i * N + n] + grad * Ct[n];
            lambda[i * N + n] = l;
            into += l * Bt[n];
            log_decay += a * l * before[i * N + n];
            if (q.dC) q.dC[(token * s.groups + g) * N + n] += now[i * N + n] * grad;
            if (q.dB) q.dB[(token * s.groups + g) * N + n] += dt * l * x[i];
          }
          if (q.dx) q.dx[(token * H + h) * P + i] = dt * into + r::skip(p, h, i) * grad;
          if (q.dD) q.dD[p.channel_D ? h * P + i : h] += grad * x[i];
          ddt += x[i] * into;
        }
        for (int64_t k = 0; k < P * N; k++) carry[k] = a * lambda[k];
        ddt = pad ? T(0) : (ddt + p.A[h] * log_decay) * step.slope;
        if (q.dA) q.dA[h] += dt * log_decay;
        if (q.ddt) q.ddt[token * H + h] = ddt;
        if (q.ddt_bias) q.ddt_bias[h] += ddt;
      }
      if (q.dinitial_state) std::copy(carry.begin(), carry.end(), q.dinitial_state + at);
    }
  }
}

}  // namespace aspis::kernel
