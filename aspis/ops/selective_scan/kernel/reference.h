#pragma once

// The definition, one element at a time: the oracle of the tests.

#include <cmath>
#include <complex>
#include <cstdint>
#include <vector>

#include "aspis/ops/selective_scan/kernel/params.h"

namespace aspis::kernel {

namespace reference_detail {

template <typename T>
T sigmoid(T x) {
  return 1 / (1 + std::exp(-x));
}

// dt and its derivative by delta.
template <typename T>
T time_step(const ScanParams<T>& p, int64_t b, int64_t t, int64_t d, T* derivative = nullptr) {
  const T x = p.delta.row(b, t)[d] + (p.delta_bias ? p.delta_bias[d] : T(0));
  const bool curved = p.softplus && !(x > T(20));
  if (derivative) *derivative = curved ? sigmoid(x) : T(1);
  return curved ? std::log1p(std::exp(x)) : x;
}

// The token of step s where a row is one sequence.
template <typename T>
int64_t token(const ScanParams<T>& p, int64_t s) {
  const int64_t r = p.reverse ? p.shape.length - 1 - s : s;
  return p.order ? p.order[r] : r;
}

template <typename T>
const T* matrix_row(const ScanParams<T>& p, const ScanMatrix<const T>& m, int64_t b, int64_t t, int64_t d) {
  return m.constant ? m.data + d * p.shape.state : m.row(b, t, d / p.shape.group_channels());
}

template <typename T>
using Number = std::complex<T>;
template <typename T>
Number<T> number(const T* pairs, int64_t n) {
  return {pairs[2 * n], pairs[2 * n + 1]};
}
template <typename T>
void add(T* pairs, int64_t n, Number<T> v) {
  pairs[2 * n] += v.real(), pairs[2 * n + 1] += v.imag();
}

// The same two with complex A, B, C and states.
template <typename T>
void scan_pairs_reference(const ScanParams<T>& p) {
  const auto [B, L, D, values, G, unit] = p.shape;
  const int64_t N = values / 2;
  for (int64_t b = 0; b < B; b++) {
    for (int64_t d = 0; d < D; d++) {
      const int64_t state = (b * D + d) * values;
      std::vector<Number<T>> x(N);
      for (int64_t n = 0; p.initial_state && n < N; n++) x[n] = number(p.initial_state + state, n);
      for (int64_t s = 0; s < L; s++) {
        const int64_t t = token(p, s);
        const T dt = time_step(p, b, t, d), u = p.u.row(b, t)[d];
        const T *Bt = matrix_row(p, p.B, b, t, d), *Ct = matrix_row(p, p.C, b, t, d);
        T y = p.D ? p.D[d] * u : T(0);
        for (int64_t n = 0; n < N; n++) {
          x[n] = std::exp(dt * number(p.A + d * values, n)) * x[n] + dt * u * number(Bt, n);
          y += 2 * (number(Ct, n) * x[n]).real();
        }
        if (p.z) y *= p.z.row(b, t)[d] * sigmoid(p.z.row(b, t)[d]);
        p.out.row(b, t)[d] = y;
      }
      for (int64_t n = 0; p.last_state && n < N; n++) {
        p.last_state[state + 2 * n] = x[n].real(), p.last_state[state + 2 * n + 1] = x[n].imag();
      }
    }
  }
}

template <typename T>
void scan_pairs_vjp_reference(const ScanVjpParams<T>& q) {
  const ScanParams<T>& p = q.in;
  const auto [B, L, D, values, G, unit] = p.shape;
  const int64_t N = values / 2, group = p.shape.group_channels();
  std::fill(q.dA, q.dA + D * values, T(0));
  std::fill(q.dB, q.dB + (p.B.constant ? D * values : B * L * G * values), T(0));
  std::fill(q.dC, q.dC + (p.C.constant ? D * values : B * L * G * values), T(0));
  if (q.dD) std::fill(q.dD, q.dD + D, T(0));
  if (q.ddelta_bias) std::fill(q.ddelta_bias, q.ddelta_bias + D, T(0));
  std::vector<Number<T>> x((L + 1) * N), m(N);
  for (int64_t b = 0; b < B; b++) {
    for (int64_t d = 0; d < D; d++) {
      const int64_t state = (b * D + d) * values;
      const auto A = [&](int64_t n) { return number(p.A + d * values, n); };
      for (int64_t n = 0; n < N; n++) {
        x[n] = p.initial_state ? number(p.initial_state + state, n) : Number<T>();
        m[n] = q.dlast_state ? number(q.dlast_state + state, n) : Number<T>();
      }
      for (int64_t s = 0; s < L; s++) {
        const int64_t t = token(p, s);
        const T dt = time_step(p, b, t, d), u = p.u.row(b, t)[d];
        const T* Bt = matrix_row(p, p.B, b, t, d);
        for (int64_t n = 0; n < N; n++) {
          x[(s + 1) * N + n] = std::exp(dt * A(n)) * x[s * N + n] + dt * u * number(Bt, n);
        }
      }
      for (int64_t s = L; s-- > 0;) {
        const int64_t t = token(p, s), g = d / group;
        T slope;
        const T dt = time_step(p, b, t, d, &slope), u = p.u.row(b, t)[d];
        const T *Bt = matrix_row(p, p.B, b, t, d), *Ct = matrix_row(p, p.C, b, t, d);
        T* dB = p.B.constant ? q.dB + d * values : q.dB + ((b * L + t) * G + g) * values;
        T* dC = p.C.constant ? q.dC + d * values : q.dC + ((b * L + t) * G + g) * values;
        T dy = q.dout.row(b, t)[d];
        if (p.z) {
          T y = p.D ? p.D[d] * u : T(0);
          for (int64_t n = 0; n < N; n++) y += 2 * (number(Ct, n) * x[(s + 1) * N + n]).real();
          const T z = p.z.row(b, t)[d], sigma = sigmoid(z);
          q.dz.row(b, t)[d] = dy * y * sigma * (1 + z * (1 - sigma));
          dy *= z * sigma;
        }
        T du = p.D ? p.D[d] * dy : T(0), ddt = 0;
        for (int64_t n = 0; n < N; n++) {
          const Number<T> lambda = m[n] + 2 * dy * std::conj(number(Ct, n));
          const Number<T> a = std::exp(dt * A(n)), by_exponent = lambda * std::conj(a * x[s * N + n]);
          add(dC, n, 2 * dy * std::conj(x[(s + 1) * N + n]));
          add(dB, n, dt * u * lambda);
          add(q.dA + d * values, n, dt * by_exponent);
          const T by_B = (lambda * std::conj(number(Bt, n))).real();
          du += dt * by_B;
          ddt += u * by_B + (std::conj(A(n)) * by_exponent).real();
          m[n] = std::conj(a) * lambda;
        }
        if (q.dD) q.dD[d] += dy * u;
        if (q.ddelta_bias) q.ddelta_bias[d] += ddt * slope;
        q.du.row(b, t)[d] = du;
        q.ddelta.row(b, t)[d] = ddt * slope;
      }
      for (int64_t n = 0; q.dinitial_state && n < N; n++) {
        q.dinitial_state[state + 2 * n] = m[n].real(), q.dinitial_state[state + 2 * n + 1] = m[n].imag();
      }
    }
  }
}

}  // namespace reference_detail

/// Forward pass of rows that are one sequence each; writes out and last_state, no checkpoints.
template <typename T>
void scan_reference(const ScanParams<T>& p) {
  namespace r = reference_detail;
  if (p.pairs) return r::scan_pairs_reference(p);
  const auto [B, L, D, N, G, unit] = p.shape;
  for (int64_t b = 0; b < B; b++) {
    for (int64_t d = 0; d < D; d++) {
      std::vector<T> x(N, T(0));
      if (p.initial_state) x.assign(p.initial_state + (b * D + d) * N, p.initial_state + (b * D + d + 1) * N);
      for (int64_t s = 0; s < L; s++) {
        const int64_t t = r::token(p, s);
        const T dt = r::time_step(p, b, t, d), u = p.u.row(b, t)[d];
        const T *Bt = r::matrix_row(p, p.B, b, t, d), *Ct = r::matrix_row(p, p.C, b, t, d);
        T y = 0;
        for (int64_t n = 0; n < N; n++) {
          x[n] = std::exp(dt * p.A[d * N + n]) * x[n] + dt * Bt[n] * u;
          y += Ct[n] * x[n];
        }
        if (p.D) y += p.D[d] * u;
        if (p.z) y *= p.z.row(b, t)[d] * r::sigmoid(p.z.row(b, t)[d]);
        p.out.row(b, t)[d] = y;
      }
      if (p.last_state) std::copy(x.begin(), x.end(), p.last_state + (b * D + d) * N);
    }
  }
}

/// The recurrent adjoint; `q.workspace`, checkpoints and recompute are not used.
template <typename T>
void scan_vjp_reference(const ScanVjpParams<T>& q) {
  namespace r = reference_detail;
  if (q.in.pairs) return r::scan_pairs_vjp_reference(q);
  const ScanParams<T>& p = q.in;
  const auto [B, L, D, N, G, unit] = p.shape;
  const int64_t group = p.shape.group_channels();
  std::fill(q.dA, q.dA + D * N, T(0));
  std::fill(q.dB, q.dB + (p.B.constant ? D * N : B * L * G * N), T(0));
  std::fill(q.dC, q.dC + (p.C.constant ? D * N : B * L * G * N), T(0));
  if (q.dD) std::fill(q.dD, q.dD + D, T(0));
  if (q.ddelta_bias) std::fill(q.ddelta_bias, q.ddelta_bias + D, T(0));
  std::vector<T> x((L + 1) * N), lambda(N);  // x: before each step, and at the end
  for (int64_t b = 0; b < B; b++) {
    for (int64_t d = 0; d < D; d++) {
      const T* A = p.A + d * N;
      const int64_t state = (b * D + d) * N;
      for (int64_t n = 0; n < N; n++) {
        x[n] = p.initial_state ? p.initial_state[state + n] : T(0);
        lambda[n] = q.dlast_state ? q.dlast_state[state + n] : T(0);
      }
      for (int64_t s = 0; s < L; s++) {
        const int64_t t = r::token(p, s);
        const T dt = r::time_step(p, b, t, d), u = p.u.row(b, t)[d];
        const T* Bt = r::matrix_row(p, p.B, b, t, d);
        for (int64_t n = 0; n < N; n++) x[(s + 1) * N + n] = std::exp(dt * A[n]) * x[s * N + n] + dt * Bt[n] * u;
      }
      for (int64_t s = L; s-- > 0;) {
        const int64_t t = r::token(p, s);
        T slope;
        const T dt = r::time_step(p, b, t, d, &slope), u = p.u.row(b, t)[d];
        const T *Bt = r::matrix_row(p, p.B, b, t, d), *Ct = r::matrix_row(p, p.C, b, t, d);
        const int64_t g = d / group;
        T* dB = p.B.constant ? q.dB + d * N : q.dB + ((b * L + t) * G + g) * N;
        T* dC = p.C.constant ? q.dC + d * N : q.dC + ((b * L + t) * G + g) * N;
        T dy = q.dout.row(b, t)[d];
        if (p.z) {
          T y = p.D ? p.D[d] * u : T(0);
          for (int64_t n = 0; n < N; n++) y += Ct[n] * x[(s + 1) * N + n];
          const T z = p.z.row(b, t)[d], sigma = r::sigmoid(z);
          q.dz.row(b, t)[d] = dy * y * sigma * (1 + z * (1 - sigma));
          dy *= z * sigma;
        }
        T du = p.D ? p.D[d] * dy : T(0), ddt = 0;
        for (int64_t n = 0; n < N; n++) {
          lambda[n] += Ct[n] * dy;
          const T a = std::exp(dt * A[n]), decayed = lambda[n] * a * x[s * N + n];
          dC[n] += dy * x[(s + 1) * N + n];
          dB[n] += lambda[n] * dt * u;
          q.dA[d * N + n] += dt * decayed;
          du += dt * lambda[n] * Bt[n];
          ddt += lambda[n] * Bt[n] * u + A[n] * decayed;
          lambda[n] *= a;
        }
        if (q.dD) q.dD[d] += dy * u;
        if (q.ddelta_bias) q.ddelta_bias[d] += ddt * slope;
        q.du.row(b, t)[d] = du;
        q.ddelta.row(b, t)[d] = ddt * slope;
      }
      if (q.dinitial_state) std::copy(lambda.begin(), lambda.end(), q.dinitial_state + state);
    }
  }
}

/// One token.
template <typename T>
void scan_step_reference(const ScanStepParams<T>& p) {
  const int64_t D = p.channels, N = p.state_size, G = p.groups;
  for (int64_t b = 0; b < p.batch; b++) {
    for (int64_t d = 0; d < D; d++) {
      const int64_t i = b * D + d, g = d / (D / G);
      T dt = p.delta[i] + (p.delta_bias ? p.delta_bias[d] : T(0));
      if (p.softplus && !(dt > T(20))) dt = std::log1p(std::exp(dt));
      const T* B = p.constant_B ? p.B + d * N : p.B + (b * G + g) * N;
      const T* C = p.constant_C ? p.C + d * N : p.C + (b * G + g) * N;
      T y = p.D ? p.D[d] * p.u[i] : T(0);
      for (int64_t n = 0; p.pairs && n < N / 2; n++) {
        namespace r = reference_detail;
        const auto x = std::exp(dt * r::number(p.A + d * N, n)) * r::number(p.state + i * N, n) +
                       dt * p.u[i] * r::number(B, n);
        p.next_state[i * N + 2 * n] = x.real(), p.next_state[i * N + 2 * n + 1] = x.imag();
        y += 2 * (r::number(C, n) * x).real();
      }
      for (int64_t n = 0; !p.pairs && n < N; n++) {
        const T x = std::exp(dt * p.A[d * N + n]) * p.state[i * N + n] + dt * B[n] * p.u[i];
        p.next_state[i * N + n] = x;
        y += C[n] * x;
      }
      p.out[i] = p.z ? y * p.z[i] * reference_detail::sigmoid(p.z[i]) : y;
    }
  }
}

}  // namespace aspis::kernel
