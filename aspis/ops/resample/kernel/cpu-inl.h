// A linear map along three axes for one instruction set. Included once per target
// by cpu.cc.
//
// A line of the result {out_2, channels} is the sum of lines of x, which is then
// mapped along the last axis: x is read once for every line that needs it, out of
// the cache mostly, and nothing but one line is kept between.

#include "aspis/simd/loops-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

// out = sum of count (1 or more) lines of n values, weighted.
template <typename S, typename O, typename T>
HWY_ATTR void weighted_sum(const S* const* lines, const T* weights, int64_t count, int64_t n, O* out) {
  const hn::ScalableTag<T> d;
  if (count == 1) {
    const auto w = hn::Set(d, weights[0]);
    simd::MapArrays(
        d, n, out, [w](auto, auto v) HWY_ATTR { return hn::Mul(v, w); }, lines[0]);
    return;
  }
  if (count == 2) {
    const auto w = hn::Set(d, weights[0]), u = hn::Set(d, weights[1]);
    simd::MapArrays(
        d, n, out, [w, u](auto, auto a, auto b) HWY_ATTR { return hn::MulAdd(b, u, hn::Mul(a, w)); }, lines[0],
        lines[1]);
    return;
  }
  // Sums stay in registers: an O of less precision must not be read back.
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {  // wide steps: many short lines are read in pieces
    const auto w = hn::Set(d, weights[0]);
    const S* x = lines[0] + i;
    auto s0 = hn::Mul(simd::LoadAny(d, x), w), s1 = hn::Mul(simd::LoadAny(d, x + lanes), w);
    auto s2 = hn::Mul(simd::LoadAny(d, x + 2 * lanes), w), s3 = hn::Mul(simd::LoadAny(d, x + 3 * lanes), w);
    for (int64_t k = 1; k < count; k++) {
      const auto u = hn::Set(d, weights[k]);
      x = lines[k] + i;
      s0 = hn::MulAdd(simd::LoadAny(d, x), u, s0);
      s1 = hn::MulAdd(simd::LoadAny(d, x + lanes), u, s1);
      s2 = hn::MulAdd(simd::LoadAny(d, x + 2 * lanes), u, s2);
      s3 = hn::MulAdd(simd::LoadAny(d, x + 3 * lanes), u, s3);
    }
    simd::StoreAny(s0, d, out + i);
    simd::StoreAny(s1, d, out + i + lanes);
    simd::StoreAny(s2, d, out + i + 2 * lanes);
    simd::StoreAny(s3, d, out + i + 3 * lanes);
  }
  for (; i + lanes <= n; i += lanes) {
    auto sum = hn::Mul(simd::LoadAny(d, lines[0] + i), hn::Set(d, weights[0]));
    for (int64_t k = 1; k < count; k++) {
      sum = hn::MulAdd(simd::LoadAny(d, lines[k] + i), hn::Set(d, weights[k]), sum);
    }
    simd::StoreAny(sum, d, out + i);
  }
  if (i < n) {
    const size_t rest = static_cast<size_t>(n - i);
    auto sum = hn::Mul(simd::LoadAnyTail(d, lines[0] + i, rest), hn::Set(d, weights[0]));
    for (int64_t k = 1; k < count; k++) {
      sum = hn::MulAdd(simd::LoadAnyTail(d, lines[k] + i, rest), hn::Set(d, weights[k]), sum);
    }
    simd::StoreAnyTail(sum, d, out + i, rest);
  }
}

#define ASPIS_RESAMPLE_FOR(S, T, suffix)                                                                         \
  HWY_ATTR void sum_lines_##suffix(const S* const* lines, const T* weights, int64_t count, int64_t n, T* out) {  \
    weighted_sum(lines, weights, count, n, out);                                                                 \
  }                                                                                                              \
  HWY_ATTR void sum_points_##suffix(const T* const* lines, const T* weights, int64_t count, int64_t n, S* out) { \
    weighted_sum(lines, weights, count, n, out);                                                                 \
  }
ASPIS_RESAMPLE_FOR(float, float, f32)
ASPIS_RESAMPLE_FOR(double, double, f64)
ASPIS_RESAMPLE_FOR(Bf16, float, bf16)
#undef ASPIS_RESAMPLE_FOR

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
