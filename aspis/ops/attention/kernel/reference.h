#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "aspis/ops/attention/kernel/params.h"

namespace aspis::kernel {

/// Where the tokens of the sequences lie: a row of a batch, or a window of a map.
struct AttentionPlaces {
  int64_t batch = 0;
  std::vector<std::pair<int64_t, int64_t>> tokens;  ///< {line, place in the line}

  int64_t of(const AttentionStrides& by, size_t token, int64_t head) const {
    return batch * by.batch + tokens[token].first * by.line + tokens[token].second * by.row + head * by.head;
  }
};

template <typename T>
std::vector<AttentionPlaces> attention_places(const AttentionParams<T>& p, int64_t rows) {
  std::vector<AttentionPlaces> all;
  for (int64_t b = 0; b < p.batch; b++) {
    if (p.side == 0) {
      all.push_back({b, {}});
      for (int64_t t = 0; t < rows; t++) all.back().tokens.emplace_back(0, t);
      continue;
    }
    for (int64_t y = 0; y < p.height; y += p.side) {
      for (int64_t x = 0; x < p.width; x += p.side) {
        all.push_back({b, {}});
        for (int64_t i = y; i < std::min(y + p.side, p.height); i++) {
          for (int64_t j = x; j < std::min(x + p.side, p.width); j++) all.back().tokens.emplace_back(i, j);
        }
      }
    }
  }
  return all;
}

/// The definition, one query at a time, with its gradients by the chain rule if
/// `g` is not null: the oracle of the tests. Dense outputs.
template <typename T>
void attention_reference(const AttentionParams<T>& p, const AttentionVjpParams<T>* g = nullptr) {
  const auto queries = attention_places(p, p.queries), keys = attention_places(p, p.keys);
  const auto dense = [&](int64_t rows, int64_t heads) {
    const int64_t row = heads * p.dim, count = p.side > 0 ? p.height * p.width : rows;
    return AttentionStrides{count * row, row, p.dim, p.width * row};
  };
  const int64_t group = p.heads / p.kv_heads;
  const auto o_strides = dense(p.queries, p.heads), k_strides = dense(p.keys, p.kv_heads);
  if (g) {
    const int64_t rows = p.side > 0 ? p.height * p.width : p.keys;
    std::fill(g->dk, g->dk + p.batch * rows * p.kv_heads * p.dim, T(0));
    std::fill(g->dv, g->dv + p.batch * rows * p.kv_heads * p.dim, T(0));
  }
  for (size_t s = 0; s < queries.size(); s++) {
    for (int64_t h = 0; h < p.heads; h++) {
      for (size_t i = 0; i < queries[s].tokens.size(); i++) {
        const T* q = p.q + queries[s].of(p.q_strides, i, h);
        const size_t n = keys[s].tokens.size();
        std::vector<T> w(n);
        for (size_t j = 0; j < n; j++) {
          const T* k = p.k + keys[s].of(p.k_strides, j, h / group);
          for (int64_t c = 0; c < p.dim; c++) w[j] += q[c] * k[c];
          w[j] *= static_cast<T>(p.scale);
          const int64_t m = static_cast<int64_t>(s) * p.mask.batch + h * p.mask.head +
                            static_cast<int64_t>(i) * p.mask.row + static_cast<int64_t>(j) * p.mask.column;
          if (p.mask.bias) w[j] += p.mask.bias[m];
          const bool seen = !(p.mask.allow && !p.mask.allow[m]) &&
                            !(p.causal && static_cast<int64_t>(j) > static_cast<int64_t>(i) + p.keys - p.queries);
          if (!seen) w[j] = -std::numeric_limits<T>::infinity();
        }
        const T largest = *std::max_element(w.begin(), w.end());
        const bool blind = largest == -std::numeric_limits<T>::infinity();
        T sum = 0;
        for (T& x : w) sum += x = blind ? T(0) : std::exp(x - largest);
        for (T& x : w) x = blind ? T(0) : x / sum;
        std::vector<T> o(p.dim);
        for (size_t j = 0; j < n; j++) {
          const T* v = p.v + keys[s].of(p.v_strides, j, h / group);
          for (int64_t c = 0; c < p.dim; c++) o[c] += w[j] * v[c];
        }
        if (p.o) std::copy(o.begin(), o.end(), p.o + queries[s].of(o_strides, i, h));
        if (!g) continue;
        const T* d_o = g->d_o + queries[s].of(g->d_o_strides, i, h);
        std::vector<T> dw(n);
        T mean = 0;
        for (size_t j = 0; j < n; j++) {
          const T* v = p.v + keys[s].of(p.v_strides, j, h / group);
          T* dv = g->dv + keys[s].of(k_strides, j, h / group);
          for (int64_t c = 0; c < p.dim; c++) {
            dw[j] += d_o[c] * v[c];
            dv[c] += w[j] * d_o[c];
          }
          mean += w[j] * dw[j];
        }
        T* dq = g->dq + queries[s].of(o_strides, i, h);
        std::fill(dq, dq + p.dim, T(0));
        for (size_t j = 0; j < n; j++) {
          const T* k = p.k + keys[s].of(p.k_strides, j, h / group);
          T* dk = g->dk + keys[s].of(k_strides, j, h / group);
          const T d_score = w[j] * (dw[j] - mean), ds = static_cast<T>(p.scale) * d_score;
          if (g->d_scores) {
            g->d_scores[((s * p.heads + h) * p.queries + i) * p.keys + j] = d_score;
          }
          for (int64_t c = 0; c < p.dim; c++) {
            dq[c] += ds * k[c];
            dk[c] += ds * q[c];
          }
        }
      }
    }
  }
}

template <typename T>
void attention_vjp_reference(const AttentionVjpParams<T>& p) {
  attention_reference(p.forward, &p);
}

}  // namespace aspis::kernel
