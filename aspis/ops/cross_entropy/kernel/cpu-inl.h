// Cross-entropy over rows for one instruction set. Included once per target by
// cpu.cc.
//
// A row is read from memory once: its maximum and its sums are two passes over
// cached data. Everything is measured from the maximum of the row, so that no
// large numbers cancel.

#include "aspis/simd/loops-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

// top = max x; a = sum exp(x - top); b = sum (x - top).
template <typename T>
HWY_ATTR void label_sums(const T* x, int64_t n, T* top, T* a, T* b) {
  const hn::ScalableTag<T> d;
  *top = simd::MaxOfArray(d, n, x);
  const auto reference = hn::Set(d, *top);
  // A NaN that MaxOfArray overlooks makes the sums NaN.
  simd::SumArrays2(
      d, n, *a, *b,
      [reference](auto tag, auto& term_a, auto& term_b, auto v) HWY_ATTR {
        term_b = hn::Sub(v, reference);
        term_a = simd::ExpNonPositive(tag, term_b);
      },
      x);
}

// a = sum t; b = sum t (x - top).
template <typename T>
HWY_ATTR void weight_sums(const T* x, const T* t, int64_t n, T top, T* a, T* b) {
  const hn::ScalableTag<T> d;
  const auto reference = hn::Set(d, top);
  simd::SumArrays2(
      d, n, *a, *b,
      [reference](auto, auto& term_a, auto& term_b, auto v, auto w) HWY_ATTR {
        term_a = w;
        term_b = hn::Mul(w, hn::Sub(v, reference));
      },
      x, t);
}

// dx = a exp(x - top) - b.
template <typename T>
HWY_ATTR void label_grad(const T* x, T* dx, int64_t n, T top, T a, T b) {
  const hn::ScalableTag<T> d;
  const auto reference = hn::Set(d, top), va = hn::Set(d, a), vb = hn::Set(d, b);
  simd::MapArrays(
      d, n, dx,
      [=](auto tag, auto v) HWY_ATTR {
        return hn::MulSub(va, simd::ExpNonPositive(tag, hn::Sub(v, reference)), vb);
      },
      x);
}

// dx = a exp(x - top) - b - c t.
template <typename T>
HWY_ATTR void weight_grad(const T* x, const T* t, T* dx, int64_t n, T top, T a, T b, T c) {
  const hn::ScalableTag<T> d;
  const auto reference = hn::Set(d, top), va = hn::Set(d, a), vb = hn::Set(d, b), vc = hn::Set(d, c);
  simd::MapArrays(
      d, n, dx,
      [=](auto tag, auto v, auto w) HWY_ATTR {
        const auto e = simd::ExpNonPositive(tag, hn::Sub(v, reference));
        return hn::NegMulAdd(vc, w, hn::MulSub(va, e, vb));
      },
      x, t);
}

// dt = k (log_sum - (x - top)).
template <typename T>
HWY_ATTR void target_grad(const T* x, T* dt, int64_t n, T top, T log_sum, T k) {
  const hn::ScalableTag<T> d;
  const auto reference = hn::Set(d, top), vl = hn::Set(d, log_sum), vk = hn::Set(d, k);
  simd::MapArrays(
      d, n, dt, [=](auto, auto v) HWY_ATTR { return hn::Mul(vk, hn::Sub(vl, hn::Sub(v, reference))); }, x);
}

#define ASPIS_CROSS_ENTROPY_FOR(T, suffix)                                                              \
  HWY_ATTR void label_sums_##suffix(const T* x, int64_t n, T* top, T* a, T* b) {                        \
    label_sums(x, n, top, a, b);                                                                        \
  }                                                                                                     \
  HWY_ATTR void weight_sums_##suffix(const T* x, const T* t, int64_t n, T top, T* a, T* b) {            \
    weight_sums(x, t, n, top, a, b);                                                                    \
  }                                                                                                     \
  HWY_ATTR void label_grad_##suffix(const T* x, T* dx, int64_t n, T top, T a, T b) {                    \
    label_grad(x, dx, n, top, a, b);                                                                    \
  }                                                                                                     \
  HWY_ATTR void weight_grad_##suffix(const T* x, const T* t, T* dx, int64_t n, T top, T a, T b, T c) {  \
    weight_grad(x, t, dx, n, top, a, b, c);                                                             \
  }                                                                                                     \
  HWY_ATTR void target_grad_##suffix(const T* x, T* dt, int64_t n, T top, T log_sum, T k) {             \
    target_grad(x, dt, n, top, log_sum, k);                                                             \
  }
ASPIS_CROSS_ENTROPY_FOR(float, f32)
ASPIS_CROSS_ENTROPY_FOR(double, f64)
#undef ASPIS_CROSS_ENTROPY_FOR

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
