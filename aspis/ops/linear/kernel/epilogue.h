#pragma once

#include <cstdint>

#include "aspis/simd/activation.h"

/// The end of a product, done by the task that has its part of the result in
/// cache. T is float or double; an element is computed by the same instructions
/// wherever it stands.
namespace aspis::kernel {

/// y = f(z) + residual for z found in y. Rows of `residual` may have gaps; those
/// of `pre` lie as those of y.
template <typename T>
struct Epilogue {
  Activation activation = Activation::kNone;
  const T* residual = nullptr;
  int64_t residual_stride = 0;
  T* pre = nullptr;  ///< where z is kept for the gradient, or null

  bool empty() const { return activation == Activation::kNone && !residual && !pre; }
  /// The same for the part that begins at (row, column) of y.
  Epilogue at(int64_t row, int64_t column, int64_t stride) const {
    return {activation, residual ? residual + row * residual_stride + column : nullptr, residual_stride,
            pre ? pre + row * stride + column : nullptr};
  }
};

/// Finishes y {rows, columns} in place, on the calling thread.
template <typename T>
void finish(const Epilogue<T>& e, int64_t rows, int64_t columns, T* y, int64_t stride);

/// dz {rows, columns} = dy f'(z), on the calling thread. z and dz have rows at
/// distance `stride`. For kRelu z may be f(z) as well. dz may be dy.
template <typename T>
void finish_gradient(Activation activation, int64_t rows, int64_t columns, const T* z, const T* dy,
                     int64_t dy_stride, T* dz, int64_t stride);

}  // namespace aspis::kernel
