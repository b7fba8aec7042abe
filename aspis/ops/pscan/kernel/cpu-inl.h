// Some steps of a scan over a block of columns, for one instruction set.
// Included once per target by cpu.cc.

#include "aspis/simd/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

template <typename T>
HWY_ATTR void scan_steps(const PscanBlock<T>& b, T* h, T* product) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t s = b.first; s < b.last; s++) {
    const int64_t t = b.backward ? b.length - 1 - s : s;
    const T* const x = b.x + t * b.stride;
    // Backwards the factor is that of the token after; behind the last one is nothing.
    const T* const a = !b.backward ? b.a + t * b.stride : s == 0 ? nullptr : b.a + (t + 1) * b.stride;
    T* const out = b.out ? b.out + t * b.stride : nullptr;
    T* const da = b.da ? b.da + t * b.stride : nullptr;
    const T* const before = !b.da ? nullptr : t > 0 ? b.h + (t - 1) * b.stride : b.initial;
    for (int64_t c = 0; c < b.columns; c += lanes) {
      const size_t n = static_cast<size_t>(HWY_MIN(lanes, b.columns - c));
      auto v = simd::LoadTail(d, x + c, n);
      if (a) {
        const auto factor = simd::LoadTail(d, a + c, n);
        v = hn::MulAdd(factor, simd::LoadTail(d, h + c, n), v);
        if (product) simd::StoreTail(hn::Mul(factor, simd::LoadTail(d, product + c, n)), d, product + c, n);
      }
      simd::StoreTail(v, d, h + c, n);
      if (out) simd::StoreTail(v, d, out + c, n);
      if (da) {
        const auto was = before ? simd::LoadTail(d, before + c, n) : hn::Zero(d);
        simd::StoreTail(hn::Mul(was, v), d, da + c, n);
      }
    }
  }
}

HWY_ATTR void scan_steps_f32(const PscanBlock<float>& b, float* h, float* product) { scan_steps(b, h, product); }
HWY_ATTR void scan_steps_f64(const PscanBlock<double>& b, double* h, double* product) {
  scan_steps(b, h, product);
}

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
