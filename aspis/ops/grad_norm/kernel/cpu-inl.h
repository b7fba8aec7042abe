// Sum of squares in double for one instruction set. Included once per target
// by cpu.cc.
//
// Bandwidth-bound: one conversion and one multiply-add for 4 bytes. Four sums
// hide the latency of the addition.

#include "aspis/simd/loops-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

HWY_ATTR double squares_f64(const double* x, int64_t n) {
  const hn::ScalableTag<double> d;
  return simd::SumArrays(d, n, [](auto, auto v) HWY_ATTR { return hn::Mul(v, v); }, x);
}

// A float's square is exact in double and cannot overflow there.
HWY_ATTR double squares_f32(const float* x, int64_t n) {
  const hn::ScalableTag<double> d;
  const hn::Rebind<float, decltype(d)> narrow;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  auto s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
  const auto add = [&](auto sum, int64_t i) HWY_ATTR {
    const auto v = hn::PromoteTo(d, hn::LoadU(narrow, x + i));
    return hn::MulAdd(v, v, sum);
  };
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    s0 = add(s0, i);
    s1 = add(s1, i + lanes);
    s2 = add(s2, i + 2 * lanes);
    s3 = add(s3, i + 3 * lanes);
  }
  for (; i + lanes <= n; i += lanes) s0 = add(s0, i);
  double rest = 0;
  for (; i < n; i++) rest += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return simd::LaneSum(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3))) + rest;
}

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
