#pragma once

#include <cstdint>

namespace aspis::kernel {

/// Cross-entropy over the rows of a {rows, classes} matrix. Row r of the logits
/// starts at x + r * x_stride. Targets are `labels`, or weights t + r * t_stride
/// where `labels` is null.
template <typename T>
struct CrossEntropyParams {
  int64_t rows = 0, classes = 0;
  const T* x = nullptr;
  int64_t x_stride = 0;
  const int64_t* labels = nullptr;
  const T* t = nullptr;
  int64_t t_stride = 0;
  double smoothing = 0;
  int64_t ignore_index = -100;
  bool mean = false, reduce = false;  ///< reduce: one value (mean or sum), else one per row
  T* loss = nullptr;
};

/// Gradients: dy has one value, or one per row without `reduce`. dx and dt are
/// dense {rows, classes}; either may be null.
template <typename T>
struct CrossEntropyVjpParams {
  CrossEntropyParams<T> in;  ///< `loss` is not used
  const T* dy = nullptr;
  T *dx = nullptr, *dt = nullptr;
};

}  // namespace aspis::kernel
