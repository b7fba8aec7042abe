#include "aspis/ops/linear/kernel/epilogue.h"

#include <type_traits>

#include "aspis/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/linear/kernel/epilogue.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "aspis/ops/linear/kernel/epilogue-inl.h"

#if HWY_ONCE
namespace aspis::kernel {

HWY_EXPORT(finish_f32);
HWY_EXPORT(finish_f64);
HWY_EXPORT(gradient_f32);
HWY_EXPORT(gradient_f64);

template <typename T>
void finish(const Epilogue<T>& e, int64_t rows, int64_t columns, T* y, int64_t stride) {
  if (e.empty()) return;
  if constexpr (std::is_same_v<T, float>) {
    HWY_DYNAMIC_DISPATCH(finish_f32)(e, rows, columns, y, stride);
  } else {
    HWY_DYNAMIC_DISPATCH(finish_f64)(e, rows, columns, y, stride);
  }
}

template <typename T>
void finish_gradient(Activation activation, int64_t rows, int64_t columns, const T* z, const T* dy,
                     int64_t dy_stride, T* dz, int64_t stride) {
  if constexpr (std::is_same_v<T, float>) {
    HWY_DYNAMIC_DISPATCH(gradient_f32)(activation, rows, columns, z, dy, dy_stride, dz, stride);
  } else {
    HWY_DYNAMIC_DISPATCH(gradient_f64)(activation, rows, columns, z, dy, dy_stride, dz, stride);
  }
}

template void finish(const Epilogue<float>&, int64_t, int64_t, float*, int64_t);
template void finish(const Epilogue<double>&, int64_t, int64_t, double*, int64_t);
template void finish_gradient(Activation, int64_t, int64_t, const float*, const float*, int64_t, float*, int64_t);
template void finish_gradient(Activation, int64_t, int64_t, const double*, const double*, int64_t, double*,
                              int64_t);

}  // namespace aspis::kernel
#endif
