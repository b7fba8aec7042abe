#pragma once

#include <cmath>

#include "aspis/ops/pool/kernel/params.h"

namespace aspis::kernel {

namespace detail {
// Calls f(output, input) for each output, with the place of the window's maximum.
template <typename T, typename F>
void for_maxima(int64_t samples, int64_t channels, const std::array<const AxisTable*, 3>& axes, const T* x, F f) {
  const AxisTable &a = *axes[0], &b = *axes[1], &c = *axes[2];
  for (int64_t o = 0; o < samples * a.out * b.out * c.out * channels; o++) {
    const int64_t ch = o % channels, k = o / channels % c.out, j = o / channels / c.out % b.out;
    const int64_t i = o / channels / c.out / b.out % a.out, s = o / channels / c.out / b.out / a.out;
    int64_t best = -1;
    for (int64_t u = a.first[i]; u < a.first[i + 1]; u++) {
      for (int64_t v = b.first[j]; v < b.first[j + 1]; v++) {
        for (int64_t w = c.first[k]; w < c.first[k + 1]; w++) {
          const int64_t at = (((s * a.in + a.index[u]) * b.in + b.index[v]) * c.in + c.index[w]) * channels + ch;
          if (best < 0 || x[at] > x[best] || std::isnan(x[at])) best = at;
        }
      }
    }
    f(o, best);
  }
}
}  // namespace detail

/// The definitions, window by window: the oracle of the tests.
template <typename T>
void max_pool_reference(const MaxPoolParams<T>& p) {
  detail::for_maxima(p.samples, p.channels, p.axes, p.x, [&](int64_t o, int64_t best) { p.y[o] = p.x[best]; });
}
template <typename T>
void max_pool_vjp_reference(const MaxPoolVjpParams<T>& p) {
  const int64_t n = p.samples * p.axes[0]->in * p.axes[1]->in * p.axes[2]->in * p.channels;
  for (int64_t i = 0; i < n; i++) p.dx[i] = 0;
  detail::for_maxima(p.samples, p.channels, p.axes, p.x, [&](int64_t o, int64_t best) { p.dx[best] += p.dy[o]; });
}

}  // namespace aspis::kernel
