#pragma once

#include "aspis/ops/resample/kernel/params.h"

namespace aspis::kernel {

/// The definition: every result as one sum over all three axes.
template <typename T>
void resample_reference(const ResampleParams<T>& p) {
  const AxisTable &a = *p.axes[0], &b = *p.axes[1], &c = *p.axes[2];
  for (int64_t s = 0; s < p.samples; s++) {
    for (int64_t i = 0; i < a.out; i++) {
      for (int64_t j = 0; j < b.out; j++) {
        for (int64_t k = 0; k < c.out; k++) {
          for (int64_t ch = 0; ch < p.channels; ch++) {
            T sum = 0;
            for (int64_t u = a.first[i]; u < a.first[i + 1]; u++) {
              for (int64_t v = b.first[j]; v < b.first[j + 1]; v++) {
                for (int64_t w = c.first[k]; w < c.first[k + 1]; w++) {
                  const int64_t at = ((s * a.in + a.index[u]) * b.in + b.index[v]) * c.in + c.index[w];
                  sum += static_cast<T>(a.weight[u] * b.weight[v] * c.weight[w]) * p.x[at * p.channels + ch];
                }
              }
            }
            p.y[(((s * a.out + i) * b.out + j) * c.out + k) * p.channels + ch] = sum;
          }
        }
      }
    }
  }
}

}  // namespace aspis::kernel
