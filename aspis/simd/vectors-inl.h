// Loops over an array in vectors with a body that loads and stores by itself: for
// passes that write several arrays at once. Included once per target.

#if defined(ASPIS_SIMD_VECTORS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ASPIS_SIMD_VECTORS_INL_H_
#undef ASPIS_SIMD_VECTORS_INL_H_
#else
#define ASPIS_SIMD_VECTORS_INL_H_
#endif

#include <hwy/cache_control.h>

#include "aspis/simd/storage-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::HWY_NAMESPACE {

/// How many lanes of a vector belong to the array: all, or the first `n`.
struct FullVector {};
struct PartVector {
  size_t n;
};

template <class D, class S>
HWY_INLINE hn::Vec<D> LoadPart(D d, const S* p, FullVector) {
  return LoadAny(d, p);
}
template <class D, class S>
HWY_INLINE hn::Vec<D> LoadPart(D d, const S* p, PartVector part) {
  return LoadAnyTail(d, p, part.n);
}
template <class D, class S>
HWY_INLINE void StorePart(hn::Vec<D> v, D d, S* p, FullVector) {
  StoreAny(v, d, p);
}
template <class D, class S>
HWY_INLINE void StorePart(hn::Vec<D> v, D d, S* p, PartVector part) {
  StoreAnyTail(v, d, p, part.n);
}
/// v with 0 in the lanes that do not belong to the array.
template <class D>
HWY_INLINE hn::Vec<D> KeepPart(D /*d*/, hn::Vec<D> v, FullVector) {
  return v;
}
template <class D>
HWY_INLINE hn::Vec<D> KeepPart(D d, hn::Vec<D> v, PartVector part) {
  return hn::IfThenElseZero(hn::FirstN(d, part.n), v);
}

/// Calls f(i, part) for the vectors that cover n values: i = 0, lanes, 2 lanes, ...
template <class D, class F>
HWY_INLINE void ForVectors(D d, int64_t n, const F& f) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) f(i, FullVector{});
  if (i < n) f(i, PartVector{static_cast<size_t>(n - i)});
}

/// Asks for the cache line at p, which need not be an address that can be read.
template <class S>
HWY_INLINE void PrefetchAny(const S* p) {
  hwy::Prefetch(p);
}

}  // namespace aspis::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // ASPIS_SIMD_VECTORS_INL_H_
