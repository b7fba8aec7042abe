#include "aspis/ops/linear/kernel/product.h"

#include <algorithm>
#include <type_traits>

#include "aspis/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/linear/kernel/product.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "aspis/ops/linear/kernel/product-inl.h"

#if HWY_ONCE
namespace aspis::kernel {

HWY_EXPORT(multiply_packed_f32);
HWY_EXPORT(multiply_packed_f64);
HWY_EXPORT(multiply_transposed_f32);
HWY_EXPORT(multiply_transposed_f64);
HWY_EXPORT(pack_f32);
HWY_EXPORT(pack_f64);
HWY_EXPORT(pack_transposed_f32);
HWY_EXPORT(pack_transposed_f64);

// The widest vector of any instruction set is 16 floats; the last panel may be
// padded to one.
int64_t packed_size(int64_t k, int64_t n) { return (n + 15) / 16 * 16 * k; }

template <typename T>
void pack(const T* B, int64_t ldb, int64_t k, int64_t n, int64_t first, int64_t last, T* packed) {
  if constexpr (std::is_same_v<T, float>) {
    HWY_DYNAMIC_DISPATCH(pack_f32)(B, ldb, k, n, first, last, packed);
  } else {
    HWY_DYNAMIC_DISPATCH(pack_f64)(B, ldb, k, n, first, last, packed);
  }
}

template <typename T>
void pack_transposed(const T* B, int64_t ldb, int64_t k, int64_t n, int64_t first, int64_t last, T* packed) {
  if constexpr (std::is_same_v<T, float>) {
    HWY_DYNAMIC_DISPATCH(pack_transposed_f32)(B, ldb, k, n, first, last, packed);
  } else {
    HWY_DYNAMIC_DISPATCH(pack_transposed_f64)(B, ldb, k, n, first, last, packed);
  }
}

template <typename T>
void multiply_packed(int64_t m, int64_t n, int64_t k, const T* A, int64_t lda, const T* packed, int64_t first,
                     int64_t last, const T* bias, bool add, T* C, int64_t ldc) {
  if constexpr (std::is_same_v<T, float>) {
    HWY_DYNAMIC_DISPATCH(multiply_packed_f32)(m, n, k, A, lda, packed, first, last, bias, add, C, ldc);
  } else {
    HWY_DYNAMIC_DISPATCH(multiply_packed_f64)(m, n, k, A, lda, packed, first, last, bias, add, C, ldc);
  }
}

template <typename T>
void multiply_transposed(int64_t m, int64_t n, int64_t k, const T* A, int64_t lda, const T* B, int64_t ldb,
                         bool add, T* C, int64_t ldc) {
  if constexpr (std::is_same_v<T, float>) {
    HWY_DYNAMIC_DISPATCH(multiply_transposed_f32)(m, n, k, A, lda, B, ldb, add, C, ldc);
  } else {
    HWY_DYNAMIC_DISPATCH(multiply_transposed_f64)(m, n, k, A, lda, B, ldb, add, C, ldc);
  }
}

template void pack(const float*, int64_t, int64_t, int64_t, int64_t, int64_t, float*);
template void pack(const double*, int64_t, int64_t, int64_t, int64_t, int64_t, double*);
template void pack_transposed(const float*, int64_t, int64_t, int64_t, int64_t, int64_t, float*);
template void pack_transposed(const double*, int64_t, int64_t, int64_t, int64_t, int64_t, double*);
template void multiply_packed(int64_t, int64_t, int64_t, const float*, int64_t, const float*, int64_t, int64_t,
                              const float*, bool, float*, int64_t);
template void multiply_packed(int64_t, int64_t, int64_t, const double*, int64_t, const double*, int64_t, int64_t,
                              const double*, bool, double*, int64_t);
template void multiply_transposed(int64_t, int64_t, int64_t, const float*, int64_t, const float*, int64_t, bool,
                                  float*, int64_t);
template void multiply_transposed(int64_t, int64_t, int64_t, const double*, int64_t, const double*, int64_t, bool,
                                  double*, int64_t);

}  // namespace aspis::kernel
#endif
