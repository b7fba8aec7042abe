#pragma once

#include <cstdint>

namespace aspis::kernel {

/// Distances in elements between batches, rows and heads; the last axis is contiguous.
struct AttentionStrides {
  int64_t batch = 0, row = 0, head = 0;
};

/// o = softmax(scale q k^T) v for every batch and head. q {batch, queries,
/// heads, dim}, k and v {batch, keys, heads, dim} with strides; o is dense.
template <typename T>
struct AttentionParams {
  int64_t batch = 0, queries = 0, keys = 0, heads = 0, dim = 0;
  double scale = 1;
  bool causal = false;  ///< query i sees the keys j <= i + keys - queries; needs keys >= queries
  const T *q = nullptr, *k = nullptr, *v = nullptr;
  AttentionStrides q_strides, k_strides, v_strides;
  T* o = nullptr;
};

/// Gradients of all three for the cotangent `d_o` (shape of o, with strides);
/// dq, dk and dv are dense. `forward.o` is not used.
template <typename T>
struct AttentionVjpParams {
  AttentionParams<T> forward;
  const T* d_o = nullptr;
  AttentionStrides d_o_strides;
  T *dq = nullptr, *dk = nullptr, *dv = nullptr;
};

}  // namespace aspis::kernel
