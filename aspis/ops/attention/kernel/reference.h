#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "aspis/ops/attention/kernel/params.h"

namespace aspis::kernel {

/// The probabilities of one query over the keys it sees.
template <typename T>
std::vector<T> attention_row_reference(const AttentionParams<T>& p, int64_t b, int64_t i, int64_t h) {
  const int64_t seen = p.causal ? i + p.keys - p.queries + 1 : p.keys;
  const T* q = p.q + b * p.q_strides.batch + i * p.q_strides.row + h * p.q_strides.head;
  std::vector<T> w(seen);
  for (int64_t j = 0; j < seen; j++) {
    const T* k = p.k + b * p.k_strides.batch + j * p.k_strides.row + h * p.k_strides.head;
    T dot = 0;
    for (int64_t c = 0; c < p.dim; c++) dot += q[c] * k[c];
    w[j] = static_cast<T>(p.scale) * dot;
  }
  const T largest = *std::max_element(w.begin(), w.end());
  T sum = 0;
  for (T& x : w) sum += x = std::exp(x - largest);
  for (T& x : w) x /= sum;
  return w;
}

/// The definition, one query at a time: the oracle of the tests.
template <typename T>
void attention_reference(const AttentionParams<T>& p) {
  for (int64_t b = 0; b < p.batch; b++) {
    for (int64_t i = 0; i < p.queries; i++) {
      for (int64_t h = 0; h < p.heads; h++) {
        const std::vector<T> w = attention_row_reference(p, b, i, h);
        T* o = p.o + ((b * p.queries + i) * p.heads + h) * p.dim;
        std::fill(o, o + p.dim, T(0));
        for (size_t j = 0; j < w.size(); j++) {
          const T* v =
              p.v + b * p.v_strides.batch + static_cast<int64_t>(j) * p.v_strides.row + h * p.v_strides.head;
          for (int64_t c = 0; c < p.dim; c++) o[c] += w[j] * v[c];
        }
      }
    }
  }
}

/// Its gradient, written out by the chain rule.
template <typename T>
void attention_vjp_reference(const AttentionVjpParams<T>& p) {
  const AttentionParams<T>& f = p.forward;
  std::fill(p.dk, p.dk + f.batch * f.keys * f.heads * f.dim, T(0));
  std::fill(p.dv, p.dv + f.batch * f.keys * f.heads * f.dim, T(0));
  for (int64_t b = 0; b < f.batch; b++) {
    for (int64_t i = 0; i < f.queries; i++) {
      for (int64_t h = 0; h < f.heads; h++) {
        const std::vector<T> w = attention_row_reference(f, b, i, h);
        const T* g = p.d_o + b * p.d_o_strides.batch + i * p.d_o_strides.row + h * p.d_o_strides.head;
        const T* q = f.q + b * f.q_strides.batch + i * f.q_strides.row + h * f.q_strides.head;
        std::vector<T> dw(w.size());
        T mean = 0;
        for (size_t j = 0; j < w.size(); j++) {
          const int64_t at = static_cast<int64_t>(j);
          const T* v = f.v + b * f.v_strides.batch + at * f.v_strides.row + h * f.v_strides.head;
          T* dv = p.dv + ((b * f.keys + at) * f.heads + h) * f.dim;
          for (int64_t c = 0; c < f.dim; c++) {
            dw[j] += g[c] * v[c];
            dv[c] += w[j] * g[c];
          }
          mean += w[j] * dw[j];
        }
        T* dq = p.dq + ((b * f.queries + i) * f.heads + h) * f.dim;
        std::fill(dq, dq + f.dim, T(0));
        for (size_t j = 0; j < w.size(); j++) {
          const int64_t at = static_cast<int64_t>(j);
          const T* k = f.k + b * f.k_strides.batch + at * f.k_strides.row + h * f.k_strides.head;
          T* dk = p.dk + ((b * f.keys + at) * f.heads + h) * f.dim;
          const T ds = static_cast<T>(f.scale) * w[j] * (dw[j] - mean);
          for (int64_t c = 0; c < f.dim; c++) {
            dq[c] += ds * k[c];
            dk[c] += ds * q[c];
          }
        }
      }
    }
  }
}

}  // namespace aspis::kernel
