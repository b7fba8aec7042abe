#pragma once

#include <cstdint>

#include "aspis/simd/bf16.h"

namespace aspis::kernel {

enum class LossReduction { kNone, kMean, kSum };

/// Cross-entropy of {rows, classes} logits. Exactly one of `labels` {rows} and
/// `soft` {rows, classes} is set. With t the target, a one-hot row for a label,
///
///     q = (1 - smoothing) t + smoothing / classes
///     loss = sum_c q_c (m + log sum_k exp(x_k - m) - x_c),   m = max_c x_c
///
/// A row whose label is `ignore_index` has loss 0 and does not count in the
/// mean; any other label outside [0, classes) gives NaN. S is float, double or
/// Bf16; losses and statistics have the arithmetic type.
template <typename S>
struct CrossEntropyParams {
  using T = Arithmetic<S>;
  int64_t rows = 0, classes = 0;
  const S* logits = nullptr;
  int64_t logits_stride = 0;  ///< between rows; a row is contiguous
  const int32_t* labels = nullptr;
  const S* soft = nullptr;
  int64_t soft_stride = 0;
  double smoothing = 0;
  int32_t ignore_index = -100;
  LossReduction reduction = LossReduction::kMean;
  T* loss = nullptr;        ///< {rows} for kNone, else one value
  T* row_loss = nullptr;    ///< {rows}; the same as `loss` for kNone
  T* statistics = nullptr;  ///< {rows, 2}: m and log sum exp(x - m), for the gradient
};

/// dlogits = dloss (sum(q) softmax(x) - q), dsoft = dloss (1 - smoothing) (-log softmax(x)),
/// both dense; a null output is not computed.
template <typename S>
struct CrossEntropyVjpParams {
  CrossEntropyParams<S> forward;         ///< inputs and statistics; its outputs are not used
  const Arithmetic<S>* dloss = nullptr;  ///< {rows} for kNone, else one value
  S *dlogits = nullptr, *dsoft = nullptr;
};

}  // namespace aspis::kernel
