// Activation and residual behind a product, for one instruction set. Included
// once per target by epilogue.cc.

#include "aspis/simd/activation-inl.h"
#include "aspis/simd/storage-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

template <Activation kKind, typename S, typename T = Arithmetic<S>>
HWY_ATTR void finish_rows(const Epilogue<S>& e, int64_t rows, int64_t columns, const T* z, int64_t z_stride, S* y,
                          int64_t stride) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t r = 0; r < rows; r++) {
    const T* const from = z + r * z_stride;
    S* const row = y + r * stride;
    const S* const residual = e.residual ? e.residual + r * e.residual_stride : nullptr;
    S* const pre = e.pre ? e.pre + r * stride : nullptr;
    int64_t c = 0;
    for (; c + lanes <= columns; c += lanes) {
      auto v = hn::LoadU(d, from + c);
      if (pre) simd::StoreAny(v, d, pre + c);
      v = simd::Activate<kKind>(d, v);
      if (residual) v = hn::Add(v, simd::LoadAny(d, residual + c));
      simd::StoreAny(v, d, row + c);
    }
    if (c == columns) continue;
    const size_t n = static_cast<size_t>(columns - c);
    auto v = simd::LoadTail(d, from + c, n);
    if (pre) simd::StoreAnyTail(v, d, pre + c, n);
    v = simd::Activate<kKind>(d, v);
    if (residual) v = hn::Add(v, simd::LoadAnyTail(d, residual + c, n));
    simd::StoreAnyTail(v, d, row + c, n);
  }
}

template <Activation kKind, typename S>
HWY_ATTR void gradient_rows(int64_t rows, int64_t columns, const S* z, const S* dy, int64_t dy_stride, S* dz,
                            int64_t stride) {
  const hn::ScalableTag<Arithmetic<S>> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t r = 0; r < rows; r++, z += stride, dy += dy_stride, dz += stride) {
    int64_t c = 0;
    for (; c + lanes <= columns; c += lanes) {
      simd::StoreAny(simd::ActivationGrad<kKind>(d, simd::LoadAny(d, z + c), simd::LoadAny(d, dy + c)), d, dz + c);
    }
    if (c == columns) continue;
    const size_t n = static_cast<size_t>(columns - c);
    simd::StoreAnyTail(
        simd::ActivationGrad<kKind>(d, simd::LoadAnyTail(d, z + c, n), simd::LoadAnyTail(d, dy + c, n)), d, dz + c,
        n);
  }
}

// to = from, element by element, between the two ways of storing a float.
template <typename From, typename To, bool kRound>
HWY_ATTR void copy_rows(const From* from, int64_t stride, int64_t rows, int64_t columns, To* to) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto round = [&](auto v) HWY_ATTR {
    return kRound ? simd::storage_detail::Widen(d, simd::storage_detail::Narrow(d, v)) : v;
  };
  for (int64_t r = 0; r < rows; r++, from += stride, to += columns) {
    int64_t c = 0;
    for (; c + lanes <= columns; c += lanes) simd::StoreAny(round(simd::LoadAny(d, from + c)), d, to + c);
    if (c == columns) continue;
    const size_t n = static_cast<size_t>(columns - c);
    simd::StoreAnyTail(round(simd::LoadAnyTail(d, from + c, n)), d, to + c, n);
  }
}

HWY_ATTR void widen_rows(const Bf16* from, int64_t stride, int64_t rows, int64_t columns, float* to) {
  copy_rows<Bf16, float, false>(from, stride, rows, columns, to);
}
HWY_ATTR void narrow_rows(const float* from, int64_t stride, int64_t rows, int64_t columns, Bf16* to) {
  copy_rows<float, Bf16, false>(from, stride, rows, columns, to);
}
HWY_ATTR void round_rows(const float* from, int64_t stride, int64_t rows, int64_t columns, float* to) {
  copy_rows<float, float, true>(from, stride, rows, columns, to);
}

HWY_ATTR void half_column_sums(const Bf16* g, int64_t stride, int64_t rows, int64_t columns, float* sums) {
  const hn::ScalableTag<float> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t c = 0;
  for (; c + 2 * lanes <= columns; c += 2 * lanes) {
    auto s0 = hn::Zero(d), s1 = s0;
    for (int64_t r = 0; r < rows; r++) {
      s0 = hn::Add(s0, simd::LoadAny(d, g + r * stride + c));
      s1 = hn::Add(s1, simd::LoadAny(d, g + r * stride + c + lanes));
    }
    hn::StoreU(s0, d, sums + c);
    hn::StoreU(s1, d, sums + c + lanes);
  }
  for (; c < columns; c += lanes) {
    const size_t n = static_cast<size_t>(HWY_MIN(lanes, columns - c));
    auto s = hn::Zero(d);
    for (int64_t r = 0; r < rows; r++) s = hn::Add(s, simd::LoadAnyTail(d, g + r * stride + c, n));
    simd::StoreTail(s, d, sums + c, n);
  }
}

#define ASPIS_EPILOGUE_INSTANCE(S, suffix)                                                                       \
  HWY_ATTR void finish_##suffix(const Epilogue<S>& e, int64_t rows, int64_t columns, const Arithmetic<S>* z,     \
                                int64_t z_stride, S* y, int64_t stride) {                                        \
    simd::WithActivation(e.activation, [&](auto kind) HWY_ATTR {                                                 \
      finish_rows<decltype(kind)::value>(e, rows, columns, z, z_stride, y, stride);                              \
    });                                                                                                          \
  }                                                                                                              \
  HWY_ATTR void gradient_##suffix(Activation activation, int64_t rows, int64_t columns, const S* z, const S* dy, \
                                  int64_t dy_stride, S* dz, int64_t stride) {                                    \
    simd::WithActivation(activation, [&](auto kind) HWY_ATTR {                                                   \
      gradient_rows<decltype(kind)::value>(rows, columns, z, dy, dy_stride, dz, stride);                         \
    });                                                                                                          \
  }
ASPIS_EPILOGUE_INSTANCE(float, f32)
ASPIS_EPILOGUE_INSTANCE(double, f64)
ASPIS_EPILOGUE_INSTANCE(Bf16, bf16)
#undef ASPIS_EPILOGUE_INSTANCE

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
