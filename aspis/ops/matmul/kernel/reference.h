#pragma once

#include "aspis/ops/matmul/kernel/cpu.h"

namespace aspis::kernel {

/// The definition.
template <typename T>
void matmul_reference(const MatmulParams<T>& p) {
  for (int64_t i = 0; i < p.batch; i++) {
    const T *a = p.a + i * p.a_batch, *b = p.b + i * p.b_batch;
    for (int64_t r = 0; r < p.m; r++) {
      for (int64_t c = 0; c < p.n; c++) {
        T sum = 0;
        for (int64_t q = 0; q < p.k; q++) {
          sum += (p.transpose_a ? a[q * p.a_stride + r] : a[r * p.a_stride + q]) *
                 (p.transpose_b ? b[c * p.b_stride + q] : b[q * p.b_stride + c]);
        }
        p.c[(i * p.m + r) * p.n + c] = sum;
      }
    }
  }
}

}  // namespace aspis::kernel
