// Loops over contiguous arrays for the kernels: element-wise maps and sums, over
// any storage type (storage-inl.h). The
// tail goes through a partial vector, so an element is computed by the same
// instructions wherever it stands; sums always run in the same order.

#if defined(ASPIS_SIMD_LOOPS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ASPIS_SIMD_LOOPS_INL_H_
#undef ASPIS_SIMD_LOOPS_INL_H_
#else
#define ASPIS_SIMD_LOOPS_INL_H_
#endif

#include "aspis/simd/math-inl.h"
#include "aspis/simd/storage-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::HWY_NAMESPACE {

/// out[i] = f(d, in0[i], in1[i], ...) for i < n; `out` may be one of the inputs.
/// Each array may be stored as T or, with T = float, as Bf16.
template <class D, class Out, class F, class... In>
HWY_INLINE void MapArrays(D d, int64_t n, Out* out, const F& f, const In*... in) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) StoreAny(f(d, LoadAny(d, in + i)...), d, out + i);
  if (i < n) {
    const size_t rest = static_cast<size_t>(n - i);
    StoreAnyTail(f(d, LoadAnyTail(d, in + i, rest)...), d, out + i, rest);
  }
}

/// Sum over i < n of f(d, in0[i], in1[i], ...), in four interleaved parts.
template <class D, class F, class... In>
HWY_INLINE hn::TFromD<D> SumArrays(D d, int64_t n, const F& f, const In*... in) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  auto s0 = hn::Zero(d), s1 = hn::Zero(d), s2 = hn::Zero(d), s3 = hn::Zero(d);
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    s0 = hn::Add(s0, f(d, LoadAny(d, in + i)...));
    s1 = hn::Add(s1, f(d, LoadAny(d, in + i + lanes)...));
    s2 = hn::Add(s2, f(d, LoadAny(d, in + i + 2 * lanes)...));
    s3 = hn::Add(s3, f(d, LoadAny(d, in + i + 3 * lanes)...));
  }
  for (; i + lanes <= n; i += lanes) s0 = hn::Add(s0, f(d, LoadAny(d, in + i)...));
  if (i < n) {
    const size_t rest = static_cast<size_t>(n - i);
    s1 = hn::Add(s1, hn::IfThenElseZero(hn::FirstN(d, rest), f(d, LoadAnyTail(d, in + i, rest)...)));
  }
  return LaneSum(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)));
}

/// out[i] = f(d, in0[i], ...) and the sum of these values (before they are rounded to Bf16).
template <class D, class Out, class T = hn::TFromD<D>, class F, class... In>
HWY_INLINE T MapSumArrays(D d, int64_t n, Out* out, const F& f, const In*... in) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  auto s0 = hn::Zero(d), s1 = hn::Zero(d);
  int64_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    const auto v0 = f(d, LoadAny(d, in + i)...);
    const auto v1 = f(d, LoadAny(d, in + i + lanes)...);
    StoreAny(v0, d, out + i);
    StoreAny(v1, d, out + i + lanes);
    s0 = hn::Add(s0, v0);
    s1 = hn::Add(s1, v1);
  }
  if (i + lanes <= n) {
    const auto v = f(d, LoadAny(d, in + i)...);
    StoreAny(v, d, out + i);
    s0 = hn::Add(s0, v);
    i += lanes;
  }
  if (i < n) {
    const size_t rest = static_cast<size_t>(n - i);
    const auto v = f(d, LoadAnyTail(d, in + i, rest)...);
    StoreAnyTail(v, d, out + i, rest);
    s1 = hn::Add(s1, hn::IfThenElseZero(hn::FirstN(d, rest), v));
  }
  return LaneSum(d, hn::Add(s0, s1));
}

/// Two sums at once: f(d, a, b, in0[i], ...) sets the terms a and b.
template <class D, class T = hn::TFromD<D>, class F, class... In>
HWY_INLINE void SumArrays2(D d, int64_t n, T& sum_a, T& sum_b, const F& f, const In*... in) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  auto a0 = hn::Zero(d), a1 = hn::Zero(d), b0 = hn::Zero(d), b1 = hn::Zero(d);
  auto a = hn::Zero(d), b = hn::Zero(d);
  int64_t i = 0;
  for (; i + 2 * lanes <= n; i += 2 * lanes) {
    f(d, a, b, LoadAny(d, in + i)...);
    a0 = hn::Add(a0, a);
    b0 = hn::Add(b0, b);
    f(d, a, b, LoadAny(d, in + i + lanes)...);
    a1 = hn::Add(a1, a);
    b1 = hn::Add(b1, b);
  }
  if (i + lanes <= n) {
    f(d, a, b, LoadAny(d, in + i)...);
    a0 = hn::Add(a0, a);
    b0 = hn::Add(b0, b);
    i += lanes;
  }
  if (i < n) {
    const size_t rest = static_cast<size_t>(n - i);
    const auto mask = hn::FirstN(d, rest);
    f(d, a, b, LoadAnyTail(d, in + i, rest)...);
    a1 = hn::Add(a1, hn::IfThenElseZero(mask, a));
    b1 = hn::Add(b1, hn::IfThenElseZero(mask, b));
  }
  sum_a = LaneSum(d, hn::Add(a0, a1));
  sum_b = LaneSum(d, hn::Add(b0, b1));
}

/// Largest of n values, -inf for none; says nothing about NaN.
template <class D, class In, class T = hn::TFromD<D>>
HWY_INLINE T MaxOfArray(D d, int64_t n, const In* x) {
  constexpr T kLowest = -std::numeric_limits<T>::infinity();
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  auto m0 = hn::Set(d, kLowest), m1 = m0, m2 = m0, m3 = m0;
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    m0 = hn::Max(m0, LoadAny(d, x + i));
    m1 = hn::Max(m1, LoadAny(d, x + i + lanes));
    m2 = hn::Max(m2, LoadAny(d, x + i + 2 * lanes));
    m3 = hn::Max(m3, LoadAny(d, x + i + 3 * lanes));
  }
  for (; i + lanes <= n; i += lanes) m0 = hn::Max(m0, LoadAny(d, x + i));
  if (i < n)
    m1 = hn::Max(m1, hn::IfThenElse(hn::FirstN(d, static_cast<size_t>(n - i)),
                                    LoadAnyTail(d, x + i, static_cast<size_t>(n - i)), hn::Set(d, kLowest)));
  return LaneMax(d, hn::Max(hn::Max(m0, m1), hn::Max(m2, m3)));
}

}  // namespace aspis::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // ASPIS_SIMD_LOOPS_INL_H_
