#pragma once

#include <cstdint>

#include "aspis/simd/activation.h"
#include "aspis/simd/bf16.h"

/// The end of a product, done by the task that has its part of the result in
/// cache. T is float, double or Bf16; an element is computed by the same
/// instructions wherever it stands.
namespace aspis::kernel {

/// y = f(z) + residual. Rows of `residual` may have gaps; those
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

/// y {rows, columns} from z {rows, columns}, which may be y itself, on the calling thread.
template <typename T>
void finish(const Epilogue<T>& e, int64_t rows, int64_t columns, const Arithmetic<T>* z, int64_t z_stride, T* y,
            int64_t stride);

/// dz {rows, columns} = dy f'(z), on the calling thread. z and dz have rows at
/// distance `stride`. For kRelu z may be f(z) as well. dz may be dy.
template <typename T>
void finish_gradient(Activation activation, int64_t rows, int64_t columns, const T* z, const T* dy,
                     int64_t dy_stride, T* dz, int64_t stride);

/// to {rows, columns}, dense: float from Bf16 (`widen`), Bf16 from either
/// (`narrow`), and float that is a Bf16 (`round_to_bf16`), on the calling thread.
void widen(const Bf16* from, int64_t stride, int64_t rows, int64_t columns, float* to);
void narrow(const float* from, int64_t stride, int64_t rows, int64_t columns, Bf16* to);
void round_to_bf16(const float* from, int64_t stride, int64_t rows, int64_t columns, float* to);

/// sums {columns} = sum over rows of g {rows, columns}, row after row, in float.
void column_sums(const Bf16* g, int64_t stride, int64_t rows, int64_t columns, float* sums);

}  // namespace aspis::kernel
