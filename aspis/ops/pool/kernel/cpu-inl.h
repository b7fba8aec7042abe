// Maxima of windows for one instruction set. Included once per target by cpu.cc.
//
// Forward, a line of the result is the maximum of lines of x and then of points of
// that line: 2 window - 2 comparisons a value instead of window^2 - 1. Backward,
// the place of each maximum is found first; then every input collects from the
// windows it lies in, so that no two tasks write to one place.

#include "aspis/simd/loops-inl.h"
#include "aspis/simd/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

// Where v takes the place of the largest value so far.
template <class V>
HWY_INLINE auto replaces(V v, V best) {
  return hn::Or(hn::Gt(v, best), hn::IsNaN(v));
}

// out = largest of count (1 or more) lines of n values. `out` may not be a line.
template <typename S, typename T = Arithmetic<S>>
HWY_ATTR void max_lines(const S* const* lines, int64_t count, int64_t n, S* out) {
  const hn::ScalableTag<T> d;
  simd::ForVectors(d, n, [&](int64_t i, auto part) HWY_ATTR {
    auto best = simd::LoadPart(d, lines[0] + i, part);
    for (int64_t k = 1; k < count; k++) {
      const auto v = simd::LoadPart(d, lines[k] + i, part);
      best = hn::IfThenElse(replaces(v, best), v, best);
    }
    simd::StorePart(best, d, out + i, part);
  });
}

// Number of the largest of count points, per channel.
template <typename S, typename T = Arithmetic<S>>
HWY_ATTR void max_place(const S* const* points, int64_t count, int64_t n, T* place) {
  const hn::ScalableTag<T> d;
  simd::ForVectors(d, n, [&](int64_t i, auto part) HWY_ATTR {
    auto best = simd::LoadPart(d, points[0] + i, part);
    auto at = hn::Zero(d);
    for (int64_t k = 1; k < count; k++) {
      const auto v = simd::LoadPart(d, points[k] + i, part);
      const auto better = replaces(v, best);
      best = hn::IfThenElse(better, v, best);
      at = hn::IfThenElse(better, hn::Set(d, static_cast<T>(k)), at);
    }
    simd::StorePart(at, d, place + i, part);
  });
}

// dx = sum of those dy whose window has its maximum here: `place` says which of
// its points that is, `number` which of them this one is.
template <typename S, typename T = Arithmetic<S>>
HWY_ATTR void max_collect(const S* const* dy, const T* const* place, const T* number, int64_t count, int64_t n,
                          S* dx) {
  const hn::ScalableTag<T> d;
  simd::ForVectors(d, n, [&](int64_t i, auto part) HWY_ATTR {
    auto sum = hn::Zero(d);
    for (int64_t k = 0; k < count; k++) {
      const auto here = hn::Eq(simd::LoadPart(d, place[k] + i, part), hn::Set(d, number[k]));
      sum = hn::Add(sum, hn::IfThenElseZero(here, simd::LoadPart(d, dy[k] + i, part)));
    }
    simd::StorePart(sum, d, dx + i, part);
  });
}

#define ASPIS_POOL_FOR(S, T, suffix)                                                                            \
  HWY_ATTR void max_lines_##suffix(const S* const* lines, int64_t count, int64_t n, S* out) {                   \
    max_lines(lines, count, n, out);                                                                            \
  }                                                                                                             \
  HWY_ATTR void max_place_##suffix(const S* const* points, int64_t count, int64_t n, T* place) {                \
    max_place(points, count, n, place);                                                                         \
  }                                                                                                             \
  HWY_ATTR void max_collect_##suffix(const S* const* dy, const T* const* place, const T* number, int64_t count, \
                                     int64_t n, S* dx) {                                                        \
    max_collect(dy, place, number, count, n, dx);                                                               \
  }
ASPIS_POOL_FOR(float, float, f32)
ASPIS_POOL_FOR(double, double, f64)
ASPIS_POOL_FOR(Bf16, float, bf16)
#undef ASPIS_POOL_FOR

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
