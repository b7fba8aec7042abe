#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "aspis/ops/causal_conv1d/kernel/params.h"

namespace aspis::kernel {

namespace conv1d_detail {

// x_t of batch b: an input, a row of the initial state, or 0.
template <typename T>
T input(const Conv1dParams<T>& p, int64_t b, int64_t t, int64_t d) {
  if (t >= 0 && t < p.length) return p.x[b * p.x_batch + p.token(t) * p.x_token + d];
  if (t < 0 && p.initial) return p.initial[b * p.initial_batch + (p.width - 1 + t) * p.initial_token + d];
  return T(0);
}

template <typename T>
T pre_activation(const Conv1dParams<T>& p, int64_t b, int64_t t, int64_t d) {
  T sum = p.bias ? p.bias[d] : T(0);
  for (int64_t k = 0; k < p.width; k++) sum += p.weight[d * p.width + k] * input(p, b, t - p.reach + k, d);
  return sum;
}

}  // namespace conv1d_detail

/// The definition, one element at a time: the oracle of the tests.
template <typename T>
void conv1d_reference(const Conv1dParams<T>& p) {
  for (int64_t b = 0; b < p.batch; b++) {
    for (int64_t d = 0; d < p.channels; d++) {
      for (int64_t t = 0; t < p.length; t++) {
        const T pre = conv1d_detail::pre_activation(p, b, t, d);
        p.out[(b * p.length + p.token(t)) * p.channels + d] = p.silu ? pre / (1 + std::exp(-pre)) : pre;
      }
      for (int64_t j = 0; p.final_state && j < p.width - 1; j++) {
        const int64_t row = b * (p.width - 1) + j;
        p.final_state[row * p.channels + d] = conv1d_detail::input(p, b, p.length - (p.width - 1) + j, d);
      }
    }
  }
}

/// The adjoint of the definition: every product is sent back to its two factors.
template <typename T>
void conv1d_vjp_reference(const Conv1dVjpParams<T>& p) {
  const Conv1dParams<T>& f = p.forward;
  const int64_t states = f.width - 1;
  std::fill_n(p.dx, f.batch * f.length * f.channels, T(0));
  std::fill_n(p.dweight, f.channels * f.width, T(0));
  if (p.dbias) std::fill_n(p.dbias, f.channels, T(0));
  if (p.dinitial) std::fill_n(p.dinitial, f.batch * states * f.channels, T(0));
  for (int64_t b = 0; b < f.batch; b++) {
    for (int64_t d = 0; d < f.channels; d++) {
      const auto send = [&](int64_t t, T value) {
        if (t >= 0 && t < f.length) p.dx[(b * f.length + f.token(t)) * f.channels + d] += value;
        if (t < 0 && p.dinitial) p.dinitial[(b * states + states + t) * f.channels + d] += value;
      };
      for (int64_t t = 0; t < f.length; t++) {
        T dpre = p.dout[b * p.dout_batch + f.token(t) * p.dout_token + d];
        if (f.silu) {
          const T pre = conv1d_detail::pre_activation(f, b, t, d), s = 1 / (1 + std::exp(-pre));
          dpre *= s * (1 + pre * (1 - s));
        }
        if (p.dbias) p.dbias[d] += dpre;
        for (int64_t k = 0; k < f.width; k++) {
          p.dweight[d * f.width + k] += dpre * conv1d_detail::input(f, b, t - f.reach + k, d);
          send(t - f.reach + k, dpre * f.weight[d * f.width + k]);
        }
      }
      for (int64_t j = 0; p.dfinal && j < states; j++) {
        send(f.length - states + j, p.dfinal[b * p.dfinal_batch + j * p.dfinal_token + d]);
      }
    }
  }
}

}  // namespace aspis::kernel
