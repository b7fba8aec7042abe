#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "aspis/ops/mamba_block/kernel/params.h"

namespace aspis::kernel {

/// The definition, token by token in visiting order: the oracle of the tests.
template <typename T>
void mamba_block_reference(const MambaBlockParams<T>& p) {
  const int64_t L = p.length, W = p.width, I = p.inner, N = p.state, R = p.rank, wide = R + 2 * N;
  const auto silu = [](T v) { return v / (1 + std::exp(-v)); };
  for (int64_t b = 0; b < p.batch; b++) {
    const T* h = p.h + b * L * W;
    std::vector<T> xz(L * 2 * I), y(L * I);
    for (int64_t t = 0; t < L; t++) {
      for (int64_t i = 0; i < 2 * I; i++) {
        for (int64_t k = 0; k < W; k++) xz[t * 2 * I + i] += p.in_proj[i * W + k] * h[t * W + k];
      }
    }
    for (const MambaBranch<T>& branch : p.branches) {
      std::vector<T> state(I * N);
      const auto token = [&](int64_t s) {
        const int64_t at = branch.reverse ? L - 1 - s : s;
        return branch.order ? int64_t{branch.order[at]} : at;
      };
      for (int64_t s = 0; s < L; s++) {
        std::vector<T> u(I), low(wide);
        for (int64_t i = 0; i < I; i++) {
          T sum = branch.conv_bias[i];
          for (int64_t k = 0; k < p.taps; k++) {
            const int64_t from = s - p.taps + 1 + k;
            if (from >= 0) sum += branch.conv_weight[i * p.taps + k] * xz[token(from) * 2 * I + i];
          }
          u[i] = silu(sum);
        }
        for (int64_t j = 0; j < wide; j++) {
          for (int64_t i = 0; i < I; i++) low[j] += branch.x_proj[j * I + i] * u[i];
        }
        for (int64_t i = 0; i < I; i++) {
          T step = branch.dt_bias[i], sum = branch.D[i] * u[i];
          for (int64_t r = 0; r < R; r++) step += branch.dt_proj[i * R + r] * low[r];
          const T dt = step > 20 ? step : std::log1p(std::exp(step));
          for (int64_t n = 0; n < N; n++) {
            T& x = state[i * N + n];
            x = std::exp(dt * branch.A[i * N + n]) * x + dt * low[R + n] * u[i];
            sum += low[R + N + n] * x;
          }
          y[token(s) * I + i] += sum * silu(xz[token(s) * 2 * I + I + i]);
        }
      }
    }
    for (int64_t t = 0; t < L; t++) {
      for (int64_t k = 0; k < W; k++) {
        T sum = 0;
        for (int64_t i = 0; i < I; i++) sum += p.out_proj[k * I + i] * y[t * I + i];
        p.out[(b * L + t) * W + k] = sum;
      }
    }
  }
}

}  // namespace aspis::kernel
