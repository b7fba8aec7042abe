#pragma once

// The definition from end to end, one token at a time, by the recurrence of h
// itself (not by the form that the kernels use): the oracle of the tests.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <vector>

#include "aspis/ops/mamba3/kernel/params.h"

namespace aspis::kernel {

/// Everything dense, row-major; pointers that may be null are marked.
template <typename T>
struct Mamba3Reference {
  Mamba3Shape shape;
  int64_t groups = 1;
  RotaryPairs pairs = RotaryPairs::kAdjacent;
  bool softplus_A = false;
  T A_floor = 0, eps = 0;
  const int32_t* cu_seqlens = nullptr;                         ///< null or {sequences + 1}
  const T *x = nullptr, *B = nullptr, *C = nullptr;            ///< {B, L, H, P}, {B, L, R, G, N}
  const T *dd_dt = nullptr, *dd_A = nullptr, *trap = nullptr;  ///< {B, L, H}
  const T *angle = nullptr, *dt_bias = nullptr;                ///< null or {B, L, A}, {H}
  const T *B_norm = nullptr, *C_norm = nullptr;                ///< null or {N}
  const T *B_bias = nullptr, *C_bias = nullptr;                ///< null or {H, R, N}
  const T *D = nullptr, *z = nullptr;                          ///< null or {H}, {B, L, H, P}
  const T *mimo_x = nullptr, *mimo_z = nullptr, *mimo_o = nullptr,
          *out_norm = nullptr;                                           ///< null or {H, R, P}, {H, P}
  const T *phi0 = nullptr, *h0 = nullptr, *k0 = nullptr, *v0 = nullptr;  ///< all or none, as in Mamba3State
  T *out = nullptr, *phi = nullptr, *h = nullptr, *k = nullptr, *v = nullptr;
};

template <typename T>
void mamba3_reference(const Mamba3Reference<T>& p) {
  const Mamba3Shape& s = p.shape;
  const int64_t H = s.heads, R = s.rank, P = s.headdim, N = s.state, A = s.angles;
  const auto sigmoid = [](T v) { return 1 / (1 + std::exp(-v)); };
  const auto softplus = [](T v) { return v > T(20) ? v : std::log1p(std::exp(v)); };
  for (int64_t row = 0; row < s.rows(); row++) {
    const int64_t first = s.sequences > 0 ? p.cu_seqlens[row] : row * s.length;
    const int64_t last = s.sequences > 0 ? p.cu_seqlens[row + 1] : first + s.length;
    for (int64_t h = 0; h < H; h++) {
      std::vector<T> phi(A, 0), state(P * N, 0), before_k(R * N, 0), before_x(P, 0);
      if (p.h0) {
        std::copy_n(p.phi0 + (row * H + h) * A, A, phi.begin());
        std::copy_n(p.h0 + (row * H + h) * P * N, P * N, state.begin());
        for (int64_t r = 0; r < R; r++)
          std::copy_n(p.k0 + ((row * R + r) * H + h) * N, N, before_k.begin() + r * N);
        std::copy_n(p.v0 + (row * H + h) * P, P, before_x.begin());
      }
      const auto scaled = [&](const T* m, int64_t r, int64_t i) { return m ? m[(h * R + r) * P + i] : T(1); };
      for (int64_t t = first; t < last; t++) {
        const int64_t at = t * H + h;
        const T dt = softplus(p.dd_dt[at] + (p.dt_bias ? p.dt_bias[h] : T(0)));
        const T v = p.dd_A[at], f = p.softplus_A ? softplus(v) : v >= 0 ? 1 + v : 1 / (1 - v);
        const T alpha = std::exp(std::min(-f, -p.A_floor) * dt), lambda = sigmoid(p.trap[at]);
        for (int64_t i = 0; i < A; i++) {
          phi[i] += T(std::numbers::pi) * std::tanh(p.angle[t * A + i]) * dt;
          phi[i] -= 2 * T(std::numbers::pi) * std::floor(phi[i] / (2 * T(std::numbers::pi)));
        }
        const auto vectors = [&](const T* m, const T* norm, const T* bias) {
          std::vector<T> w(R * N);
          for (int64_t r = 0; r < R; r++) {
            const T* from = m + ((t * R + r) * p.groups + h / (H / p.groups)) * N;
            T squares = 0;
            for (int64_t n = 0; n < N; n++) squares += from[n] * from[n];
            const T scale = norm ? 1 / std::sqrt(squares / T(N) + p.eps) : T(1);
            for (int64_t n = 0; n < N; n++)
              w[r * N + n] = from[n] * scale * (norm ? norm[n] : T(1)) + (bias ? bias[(h * R + r) * N + n] : T(0));
            for (int64_t i = 0; i < A; i++) {
              const bool near = p.pairs == RotaryPairs::kAdjacent;
              T &a = w[r * N + (near ? 2 * i : i)], &b = w[r * N + (near ? 2 * i + 1 : i + N / 2)];
              const T c = std::cos(phi[i]), sn = std::sin(phi[i]), kept = a;
              a = kept * c - b * sn;
              b = kept * sn + b * c;
            }
          }
          return w;
        };
        const auto k = vectors(p.B, p.B_norm, p.B_bias), q = vectors(p.C, p.C_norm, p.C_bias);
        const T* const x = p.x + at * P;
        for (int64_t i = 0; i < P; i++) {
          for (int64_t n = 0; n < N; n++) {
            T sum = 0, old = 0;
            for (int64_t r = 0; r < R; r++) {
              sum += x[i] * scaled(p.mimo_x, r, i) * k[r * N + n];
              old += before_x[i] * scaled(p.mimo_x, r, i) * before_k[r * N + n];
            }
            T& value = state[i * N + n];
            value = alpha * value + alpha * dt * (1 - lambda) * old + dt * lambda * sum;
          }
        }
        std::fill_n(p.out + at * P, P, T(0));
        for (int64_t r = 0; r < R; r++) {
          std::vector<T> y(P, 0);
          T squares = 0;
          for (int64_t i = 0; i < P; i++) {
            for (int64_t n = 0; n < N; n++) y[i] += state[i * N + n] * q[r * N + n];
            if (p.D) y[i] += p.D[h] * x[i] * scaled(p.mimo_x, r, i);
            squares += y[i] * y[i];
          }
          for (int64_t i = 0; i < P; i++) {
            if (p.out_norm) y[i] *= p.out_norm[h * P + i] / std::sqrt(squares / T(P) + p.eps);
            if (p.z) {
              const T g = p.z[at * P + i] * scaled(p.mimo_z, r, i);
              y[i] *= g * sigmoid(g);
            }
            p.out[at * P + i] += y[i] * scaled(p.mimo_o, r, i);
          }
        }
        before_k = k;
        std::copy_n(x, P, before_x.begin());
      }
      std::copy(phi.begin(), phi.end(), p.phi + (row * H + h) * A);
      std::copy(state.begin(), state.end(), p.h + (row * H + h) * P * N);
      for (int64_t r = 0; r < R; r++) std::copy_n(before_k.begin() + r * N, N, p.k + ((row * R + r) * H + h) * N);
      std::copy(before_x.begin(), before_x.end(), p.v + (row * H + h) * P);
    }
  }
}

}  // namespace aspis::kernel
