// Vectors from and to memory of any storage type, for one instruction set:
// float and double as they are, bfloat16 widened to float and rounded to nearest
// even on the way back. Included once per target by loops-inl.h.

#if defined(ASPIS_SIMD_STORAGE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ASPIS_SIMD_STORAGE_INL_H_
#undef ASPIS_SIMD_STORAGE_INL_H_
#else
#define ASPIS_SIMD_STORAGE_INL_H_
#endif

#include "aspis/simd/bf16.h"
#include "aspis/simd/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::HWY_NAMESPACE {

template <class D>
HWY_INLINE hn::Vec<D> LoadAny(D d, const hn::TFromD<D>* p) {
  return hn::LoadU(d, p);
}
template <class D>
HWY_INLINE hn::Vec<D> LoadAnyTail(D d, const hn::TFromD<D>* p, size_t n) {
  return LoadTail(d, p, n);
}
template <class D>
HWY_INLINE void StoreAny(hn::Vec<D> v, D d, hn::TFromD<D>* p) {
  hn::StoreU(v, d, p);
}
template <class D>
HWY_INLINE void StoreAnyTail(hn::Vec<D> v, D d, hn::TFromD<D>* p, size_t n) {
  StoreTail(v, d, p, n);
}

namespace storage_detail {
template <class D>
using Half = hn::Rebind<uint16_t, D>;

template <class D>
HWY_INLINE hn::Vec<D> Widen(D d, hn::Vec<Half<D>> bits) {
  const hn::RebindToUnsigned<D> du;
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, bits)));
}
template <class D>
HWY_INLINE hn::Vec<Half<D>> Narrow(D /*d*/, hn::Vec<D> v) {
  const hn::RebindToUnsigned<D> du;
  const auto word = hn::BitCast(du, v);
  const auto odd = hn::And(hn::ShiftRight<16>(word), hn::Set(du, 1u));
  const auto rounded = hn::Add(word, hn::Add(odd, hn::Set(du, 0x7fffu)));
  // Rounding would carry some NaN bits away.
  const auto quiet = hn::Or(word, hn::Set(du, 0x400000u));
  const auto kept = hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(v)), quiet, rounded);
  return hn::TruncateTo(Half<D>(), hn::ShiftRight<16>(kept));
}
}  // namespace storage_detail

template <class D>
HWY_INLINE hn::Vec<D> LoadAny(D d, const Bf16* p) {
  return storage_detail::Widen(d, hn::LoadU(storage_detail::Half<D>(), &p->bits));
}
template <class D>
HWY_INLINE hn::Vec<D> LoadAnyTail(D d, const Bf16* p, size_t n) {
  const storage_detail::Half<D> dh;
  HWY_ALIGN uint16_t buffer[HWY_MAX_BYTES / sizeof(float)] = {};
  std::memcpy(buffer, p, n * sizeof(uint16_t));
  return storage_detail::Widen(d, hn::Load(dh, buffer));
}
template <class D>
HWY_INLINE void StoreAny(hn::Vec<D> v, D d, Bf16* p) {
  hn::StoreU(storage_detail::Narrow(d, v), storage_detail::Half<D>(), &p->bits);
}
template <class D>
HWY_INLINE void StoreAnyTail(hn::Vec<D> v, D d, Bf16* p, size_t n) {
  const storage_detail::Half<D> dh;
  HWY_ALIGN uint16_t buffer[HWY_MAX_BYTES / sizeof(float)];
  hn::Store(storage_detail::Narrow(d, v), dh, buffer);
  std::memcpy(p, buffer, n * sizeof(uint16_t));
}

}  // namespace aspis::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // ASPIS_SIMD_STORAGE_INL_H_
