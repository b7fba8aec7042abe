#pragma once

#include <cstdint>

namespace aspis::kernel {

/// C_i = op(A_i) op(B_i) for i < batch, each {m, k} x {k, n}. A_i is stored {m, k},
/// or {k, m} with `transpose_a`; B_i {k, n} or {n, k}. Rows may have gaps, and the
/// distance between the matrices of a batch may be 0. C is dense.
template <typename T>
struct MatmulParams {
  int64_t batch = 1, m = 0, n = 0, k = 0;
  bool transpose_a = false, transpose_b = false;
  const T *a = nullptr, *b = nullptr;
  int64_t a_stride = 0, b_stride = 0;  ///< of rows
  int64_t a_batch = 0, b_batch = 0;    ///< of matrices
  T* c = nullptr;
  T* workspace = nullptr;  ///< matmul_workspace() values
};

/// T is float or double; runs on the team. Each element is one chain of
/// multiply-adds over k, so its bits depend on nothing but its row and column.
template <typename T>
void matmul(const MatmulParams<T>& p);

template <typename T>
int64_t matmul_workspace(const MatmulParams<T>& p);

}  // namespace aspis::kernel
