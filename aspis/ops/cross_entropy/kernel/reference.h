#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "aspis/ops/cross_entropy/kernel/params.h"

namespace aspis::kernel {

/// q of one row; false if the row is ignored. A wrong label gives NaN.
template <typename T>
bool cross_entropy_target(const CrossEntropyParams<T>& p, int64_t row, std::vector<T>& q) {
  q.assign(p.classes, T(p.smoothing / static_cast<double>(p.classes)));
  if (p.soft) {
    for (int64_t c = 0; c < p.classes; c++) q[c] += T(1 - p.smoothing) * p.soft[row * p.soft_stride + c];
    return true;
  }
  const int32_t label = p.labels[row];
  if (label == p.ignore_index) return false;
  if (label < 0 || label >= p.classes) {
    q.assign(p.classes, std::numeric_limits<T>::quiet_NaN());
  } else {
    q[label] += T(1 - p.smoothing);
  }
  return true;
}

/// log softmax of one row.
template <typename T>
void log_softmax_row(const T* x, int64_t n, std::vector<T>& y) {
  T m = -std::numeric_limits<T>::infinity(), sum = 0;
  for (int64_t c = 0; c < n; c++) m = std::max(m, x[c]);
  for (int64_t c = 0; c < n; c++) sum += std::exp(x[c] - m);
  y.resize(n);
  for (int64_t c = 0; c < n; c++) y[c] = (x[c] - m) - std::log(sum);
}

/// The definition, loss only: `statistics` and `row_loss` are not written.
template <typename T>
void cross_entropy_reference(const CrossEntropyParams<T>& p) {
  std::vector<T> q, y;
  T total = 0;
  int64_t counted = 0;
  for (int64_t r = 0; r < p.rows; r++) {
    T loss = 0;
    if (cross_entropy_target(p, r, q)) {
      log_softmax_row(p.logits + r * p.logits_stride, p.classes, y);
      for (int64_t c = 0; c < p.classes; c++) loss -= q[c] * y[c];
      counted++;
    }
    if (p.reduction == LossReduction::kNone) p.loss[r] = loss;
    total += loss;
  }
  if (p.reduction == LossReduction::kSum) p.loss[0] = total;
  if (p.reduction == LossReduction::kMean) p.loss[0] = total / static_cast<T>(counted);
}

template <typename T>
void cross_entropy_vjp_reference(const CrossEntropyVjpParams<T>& p) {
  const CrossEntropyParams<T>& f = p.forward;
  std::vector<T> q, y;
  int64_t counted = 0;
  for (int64_t r = 0; r < f.rows; r++) counted += cross_entropy_target(f, r, q);
  for (int64_t r = 0; r < f.rows; r++) {
    const bool used = cross_entropy_target(f, r, q);
    const T g = f.reduction == LossReduction::kNone  ? p.dloss[r]
                : f.reduction == LossReduction::kSum ? p.dloss[0]
                                                     : p.dloss[0] / static_cast<T>(counted);
    log_softmax_row(f.logits + r * f.logits_stride, f.classes, y);
    T total = 0;
    for (const T v : q) total += v;
    for (int64_t c = 0; c < f.classes; c++) {
      if (p.dlogits) p.dlogits[r * f.classes + c] = used ? g * (total * std::exp(y[c]) - q[c]) : T(0);
      if (p.dsoft) p.dsoft[r * f.classes + c] = -g * T(1 - f.smoothing) * y[c];
    }
  }
}

}  // namespace aspis::kernel
