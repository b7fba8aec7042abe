// Sum of squares for one instruction set: floats are widened first, so that no
// finite gradient overflows and the order hardly matters. Bandwidth-bound.

#include "aspis/simd/storage-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

HWY_ATTR double sum_squares_f64(const double* x, int64_t n) {
  const hn::ScalableTag<double> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  auto s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    const auto x0 = hn::LoadU(d, x + i), x1 = hn::LoadU(d, x + i + lanes);
    const auto x2 = hn::LoadU(d, x + i + 2 * lanes), x3 = hn::LoadU(d, x + i + 3 * lanes);
    s0 = hn::MulAdd(x0, x0, s0);
    s1 = hn::MulAdd(x1, x1, s1);
    s2 = hn::MulAdd(x2, x2, s2);
    s3 = hn::MulAdd(x3, x3, s3);
  }
  for (; i < n; i += lanes) {
    const auto v = simd::LoadTail(d, x + i, static_cast<size_t>(HWY_MIN(lanes, n - i)));
    s0 = hn::MulAdd(v, v, s0);
  }
  return simd::LaneSum(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)));
}

// S is float or Bf16.
template <typename S>
HWY_ATTR double sum_squares_widened(const S* x, int64_t n) {
  const hn::ScalableTag<double> d;
  const hn::Rebind<float, decltype(d)> half;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto load = [&](const S* p) HWY_ATTR { return hn::PromoteTo(d, simd::LoadAny(half, p)); };
  auto s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    const auto x0 = load(x + i), x1 = load(x + i + lanes);
    const auto x2 = load(x + i + 2 * lanes), x3 = load(x + i + 3 * lanes);
    s0 = hn::MulAdd(x0, x0, s0);
    s1 = hn::MulAdd(x1, x1, s1);
    s2 = hn::MulAdd(x2, x2, s2);
    s3 = hn::MulAdd(x3, x3, s3);
  }
  double tail = 0;
  for (; i < n; i++) tail += static_cast<double>(load_value(x[i])) * static_cast<double>(load_value(x[i]));
  return simd::LaneSum(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3))) + tail;
}

HWY_ATTR double sum_squares_f32(const float* x, int64_t n) { return sum_squares_widened(x, n); }
HWY_ATTR double sum_squares_bf16(const Bf16* x, int64_t n) { return sum_squares_widened(x, n); }

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
