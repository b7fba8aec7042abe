#pragma once

#include <cstdint>

#include "aspis/simd/bf16.h"

namespace aspis::kernel {

/// Distances in elements between batches, rows and heads; the last axis is contiguous.
struct AttentionStrides {
  int64_t batch = 0, row = 0, head = 0;
  int64_t line = 0;  ///< windows: between the lines of a map, whose tokens are `row` apart
};

/// What the scores are changed by before the softmax, {batch, heads, queries,
/// keys} with any strides: a value that is added, or a flag that is false where
/// a query does not see a key. At most one of the two.
template <typename T>
struct AttentionMask {
  const T* bias = nullptr;
  const bool* allow = nullptr;
  int64_t batch = 0, head = 0, row = 0, column = 0;
};

/// o = softmax(scale q k^T + mask) v for every batch and head. q {batch, queries,
/// heads, dim}, k and v {batch, keys, kv_heads, dim} with strides; o is dense.
/// heads / kv_heads query heads in a row share a head of k and v. A query that
/// sees no key gives 0.
///
/// With `side` > 0 the tokens are a map {height, width} cut into windows of
/// side x side, the last ones of a line or column smaller: every window is a
/// sequence of its own. `queries` and `keys` are then side^2, without mask.
///
/// T is the arithmetic type. S is what is stored: T, or Bf16.
template <typename T, typename S = T>
struct AttentionParams {
  int64_t batch = 0, queries = 0, keys = 0, heads = 0, kv_heads = 0, dim = 0;
  double scale = 1;
  bool causal = false;  ///< query i sees the keys j <= i + keys - queries; needs keys >= queries
  int64_t height = 0, width = 0, side = 0;
  const S *q = nullptr, *k = nullptr, *v = nullptr;
  AttentionStrides q_strides, k_strides, v_strides;
  AttentionMask<T> mask;
  S* o = nullptr;
  /// {batch (times windows), heads, 2, queries}: the largest score of a query and 1 over
  /// the sum of e^(score - largest). Written by the forward unless null, read by the backward.
  T* stats = nullptr;
};

/// Gradients of all three for the cotangent `d_o` (shape of o, with strides);
/// dq, dk and dv are dense. `forward.stats` are those that the forward wrote.
template <typename T, typename S = T>
struct AttentionVjpParams {
  AttentionParams<T, S> forward;
  const S* o = nullptr;  ///< what the forward gave
  AttentionStrides o_strides;
  const S* d_o = nullptr;
  AttentionStrides d_o_strides;
  S *dq = nullptr, *dk = nullptr, *dv = nullptr;
  /// Gradient of a mask that is added, {batch, heads, queries, keys} dense, or null. Not with windows.
  T* d_scores = nullptr;
};

}  // namespace aspis::kernel
