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
HWY_EXPORT(finish_bf16);
HWY_EXPORT(gradient_f32);
HWY_EXPORT(gradient_f64);
HWY_EXPORT(gradient_bf16);
HWY_EXPORT(widen_rows);
HWY_EXPORT(narrow_rows);
HWY_EXPORT(round_rows);
HWY_EXPORT(half_column_sums);

template <typename T>
void finish(const Epilogue<T>& e, int64_t rows, int64_t columns, const Arithmetic<T>* z, int64_t z_stride, T* y,
            int64_t stride) {
  if constexpr (std::is_same_v<T, float>) {
    HWY_DYNAMIC_DISPATCH(finish_f32)(e, rows, columns, z, z_stride, y, stride);
  } else if constexpr (std::is_same_v<T, double>) {
    HWY_DYNAMIC_DISPATCH(finish_f64)(e, rows, columns, z, z_stride, y, stride);
  } else {
    HWY_DYNAMIC_DISPATCH(finish_bf16)(e, rows, columns, z, z_stride, y, stride);
  }
}

template <typename T>
void finish_gradient(Activation activation, int64_t rows, int64_t columns, const T* z, const T* dy,
                     int64_t dy_stride, T* dz, int64_t stride) {
  if constexpr (std::is_same_v<T, float>) {
    HWY_DYNAMIC_DISPATCH(gradient_f32)(activation, rows, columns, z, dy, dy_stride, dz, stride);
  } else if constexpr (std::is_same_v<T, double>) {
    HWY_DYNAMIC_DISPATCH(gradient_f64)(activation, rows, columns, z, dy, dy_stride, dz, stride);
  } else {
    HWY_DYNAMIC_DISPATCH(gradient_bf16)(activation, rows, columns, z, dy, dy_stride, dz, stride);
  }
}

void widen(const Bf16* from, int64_t stride, int64_t rows, int64_t columns, float* to) {
  HWY_DYNAMIC_DISPATCH(widen_rows)(from, stride, rows, columns, to);
}
void narrow(const float* from, int64_t stride, int64_t rows, int64_t columns, Bf16* to) {
  HWY_DYNAMIC_DISPATCH(narrow_rows)(from, stride, rows, columns, to);
}
void round_to_bf16(const float* from, int64_t stride, int64_t rows, int64_t columns, float* to) {
  HWY_DYNAMIC_DISPATCH(round_rows)(from, stride, rows, columns, to);
}
void column_sums(const Bf16* g, int64_t stride, int64_t rows, int64_t columns, float* sums) {
  HWY_DYNAMIC_DISPATCH(half_column_sums)(g, stride, rows, columns, sums);
}

#define ASPIS_EPILOGUE_INSTANCE(T)                                                                        \
  template void finish(const Epilogue<T>&, int64_t, int64_t, const Arithmetic<T>*, int64_t, T*, int64_t); \
  template void finish_gradient(Activation, int64_t, int64_t, const T*, const T*, int64_t, T*, int64_t);
ASPIS_EPILOGUE_INSTANCE(float)
ASPIS_EPILOGUE_INSTANCE(double)
ASPIS_EPILOGUE_INSTANCE(Bf16)
#undef ASPIS_EPILOGUE_INSTANCE

}  // namespace aspis::kernel
#endif
