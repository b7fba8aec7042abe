// Activation and residual behind a product, for one instruction set. Included
// once per target by epilogue.cc.

#include "aspis/simd/activation-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

template <Activation kKind, typename T>
HWY_ATTR void finish_rows(const Epilogue<T>& e, int64_t rows, int64_t columns, T* y, int64_t stride) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t r = 0; r < rows; r++) {
    T* const row = y + r * stride;
    const T* const residual = e.residual ? e.residual + r * e.residual_stride : nullptr;
    T* const pre = e.pre ? e.pre + r * stride : nullptr;
    int64_t c = 0;
    for (; c + lanes <= columns; c += lanes) {
      auto v = hn::LoadU(d, row + c);
      if (pre) hn::StoreU(v, d, pre + c);
      v = simd::Activate<kKind>(d, v);
      if (residual) v = hn::Add(v, hn::LoadU(d, residual + c));
      hn::StoreU(v, d, row + c);
    }
    if (c == columns) continue;
    const size_t n = static_cast<size_t>(columns - c);
    auto v = simd::LoadTail(d, row + c, n);
    if (pre) simd::StoreTail(v, d, pre + c, n);
    v = simd::Activate<kKind>(d, v);
    if (residual) v = hn::Add(v, simd::LoadTail(d, residual + c, n));
    simd::StoreTail(v, d, row + c, n);
  }
}

template <Activation kKind, typename T>
HWY_ATTR void gradient_rows(int64_t rows, int64_t columns, const T* z, const T* dy, int64_t dy_stride, T* dz,
                            int64_t stride) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t r = 0; r < rows; r++, z += stride, dy += dy_stride, dz += stride) {
    int64_t c = 0;
    for (; c + lanes <= columns; c += lanes) {
      hn::StoreU(simd::ActivationGrad<kKind>(d, hn::LoadU(d, z + c), hn::LoadU(d, dy + c)), d, dz + c);
    }
    if (c == columns) continue;
    const size_t n = static_cast<size_t>(columns - c);
    simd::StoreTail(simd::ActivationGrad<kKind>(d, simd::LoadTail(d, z + c, n), simd::LoadTail(d, dy + c, n)), d,
                    dz + c, n);
  }
}

template <typename T>
HWY_ATTR void finish_any(const Epilogue<T>& e, int64_t rows, int64_t columns, T* y, int64_t stride) {
  simd::WithActivation(
      e.activation, [&](auto kind) HWY_ATTR { finish_rows<decltype(kind)::value>(e, rows, columns, y, stride); });
}

template <typename T>
HWY_ATTR void gradient_any(Activation activation, int64_t rows, int64_t columns, const T* z, const T* dy,
                           int64_t dy_stride, T* dz, int64_t stride) {
  simd::WithActivation(activation, [&](auto kind) HWY_ATTR {
    gradient_rows<decltype(kind)::value>(rows, columns, z, dy, dy_stride, dz, stride);
  });
}

#define ASPIS_EPILOGUE_INSTANCE(T, suffix)                                                                       \
  HWY_ATTR void finish_##suffix(const Epilogue<T>& e, int64_t rows, int64_t columns, T* y, int64_t stride) {     \
    finish_any(e, rows, columns, y, stride);                                                                     \
  }                                                                                                              \
  HWY_ATTR void gradient_##suffix(Activation activation, int64_t rows, int64_t columns, const T* z, const T* dy, \
                                  int64_t dy_stride, T* dz, int64_t stride) {                                    \
    gradient_any(activation, rows, columns, z, dy, dy_stride, dz, stride);                                       \
  }
ASPIS_EPILOGUE_INSTANCE(float, f32)
ASPIS_EPILOGUE_INSTANCE(double, f64)
#undef ASPIS_EPILOGUE_INSTANCE

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
