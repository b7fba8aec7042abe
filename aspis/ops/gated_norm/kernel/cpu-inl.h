// Gated norms of one row for one instruction set. Included once per target by
// cpu.cc. A group is read from memory once and stays in the first-level cache.

#include <cmath>

#include "aspis/simd/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

// Fills `v` {group} and returns mean and 1 / root of the variance.
template <typename T>
struct GroupStats {
  T mean, rstd;
};
template <typename T>
HWY_ATTR GroupStats<T> open_group(const GatedNormParams<T>& p, const T* x, const T* z, T* v) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d)), n = p.group;
  const bool gate = z && !p.norm_first;
  auto sum = hn::Zero(d);
  for (int64_t c = 0; c < n; c += lanes) {
    const size_t m = static_cast<size_t>(HWY_MIN(lanes, n - c));
    auto a = simd::LoadTail(d, x + c, m);
    if (gate) a = hn::Mul(a, simd::Silu(d, simd::LoadTail(d, z + c, m)));
    sum = hn::Add(sum, a);
    simd::StoreTail(a, d, v + c, m);
  }
  const T mean = p.center ? simd::LaneSum(d, sum) / static_cast<T>(n) : T(0);
  const auto middle = hn::Set(d, mean);
  auto squares = hn::Zero(d);
  for (int64_t c = 0; c < n; c += lanes) {
    const size_t m = static_cast<size_t>(HWY_MIN(lanes, n - c));
    const auto a = hn::Sub(simd::LoadTailOr(d, v + c, m, mean), middle);
    squares = hn::MulAdd(a, a, squares);
  }
  return {mean, T(1) / std::sqrt(simd::LaneSum(d, squares) / static_cast<T>(n) + static_cast<T>(p.eps))};
}

template <typename T>
HWY_ATTR void norm_row(const GatedNormParams<T>& p, int64_t row, T* v) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t first = 0; first < p.width; first += p.group) {
    const int64_t at = row * p.width + first;
    const T* const z = p.z ? p.z + at : nullptr;
    const GroupStats<T> stats = open_group(p, p.x + at, z, v);
    const auto mean = hn::Set(d, stats.mean), rstd = hn::Set(d, stats.rstd);
    for (int64_t c = 0; c < p.group; c += lanes) {
      const size_t m = static_cast<size_t>(HWY_MIN(lanes, p.group - c));
      auto y = hn::Mul(hn::Sub(simd::LoadTail(d, v + c, m), mean), rstd);
      if (p.weight) y = hn::Mul(y, simd::LoadTail(d, p.weight + first + c, m));
      if (p.bias) y = hn::Add(y, simd::LoadTail(d, p.bias + first + c, m));
      if (z && p.norm_first) y = hn::Mul(y, simd::Silu(d, simd::LoadTail(d, z + c, m)));
      simd::StoreTail(y, d, p.y + at + c, m);
    }
  }
}

// Adds the gradients of weight and bias to `dweight` and `dbias` {width}; `v`
// has room for two groups.
template <typename T>
HWY_ATTR void norm_row_vjp(const GatedNormVjpParams<T>& q, int64_t row, T* v, T* dweight, T* dbias) {
  const GatedNormParams<T>& p = q.in;
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  T* const pull = v + p.group;  // gradient of the normalised value
  for (int64_t first = 0; first < p.width; first += p.group) {
    const int64_t at = row * p.width + first;
    const T *const x = p.x + at, *const z = p.z ? p.z + at : nullptr;
    const GroupStats<T> stats = open_group(p, x, z, v);
    const auto mean = hn::Set(d, stats.mean), rstd = hn::Set(d, stats.rstd);
    auto sums = hn::Zero(d), dots = sums;
    for (int64_t c = 0; c < p.group; c += lanes) {
      const size_t m = static_cast<size_t>(HWY_MIN(lanes, p.group - c));
      const auto h = hn::Mul(hn::Sub(simd::LoadTailOr(d, v + c, m, stats.mean), mean), rstd);
      auto g = simd::LoadTail(d, q.dy + at + c, m);
      if (z && p.norm_first) {
        auto value = hn::Zero(d), slope = value, n = h;
        simd::SiluAndGrad(d, simd::LoadTail(d, z + c, m), value, slope);
        if (p.weight) n = hn::Mul(n, simd::LoadTail(d, p.weight + first + c, m));
        if (p.bias) n = hn::Add(n, simd::LoadTail(d, p.bias + first + c, m));
        simd::StoreTail(hn::Mul(hn::Mul(g, n), slope), d, q.dz + at + c, m);
        g = hn::Mul(g, value);
      }
      if (dweight) {
        T* const to = dweight + first + c;
        simd::StoreTail(hn::MulAdd(g, h, simd::LoadTail(d, to, m)), d, to, m);
      }
      if (dbias) {
        T* const to = dbias + first + c;
        simd::StoreTail(hn::Add(g, simd::LoadTail(d, to, m)), d, to, m);
      }
      if (p.weight) g = hn::Mul(g, simd::LoadTail(d, p.weight + first + c, m));
      sums = hn::Add(sums, g);
      dots = hn::MulAdd(g, h, dots);
      simd::StoreTail(g, d, pull + c, m);
    }
    const T count = static_cast<T>(p.group);
    const auto mean_g = hn::Set(d, p.center ? simd::LaneSum(d, sums) / count : T(0));
    const auto mean_gh = hn::Set(d, simd::LaneSum(d, dots) / count);
    for (int64_t c = 0; c < p.group; c += lanes) {
      const size_t m = static_cast<size_t>(HWY_MIN(lanes, p.group - c));
      const auto h = hn::Mul(hn::Sub(simd::LoadTail(d, v + c, m), mean), rstd);
      auto dv = hn::Sub(simd::LoadTail(d, pull + c, m), mean_g);
      dv = hn::Mul(rstd, hn::NegMulAdd(h, mean_gh, dv));
      if (z && !p.norm_first) {
        auto value = hn::Zero(d), slope = value;
        simd::SiluAndGrad(d, simd::LoadTail(d, z + c, m), value, slope);
        simd::StoreTail(hn::Mul(hn::Mul(dv, simd::LoadTail(d, x + c, m)), slope), d, q.dz + at + c, m);
        dv = hn::Mul(dv, value);
      }
      simd::StoreTail(dv, d, q.dx + at + c, m);
    }
  }
}

HWY_ATTR void norm_row_f32(const GatedNormParams<float>& p, int64_t row, float* v) { norm_row(p, row, v); }
HWY_ATTR void norm_row_f64(const GatedNormParams<double>& p, int64_t row, double* v) { norm_row(p, row, v); }
HWY_ATTR void norm_row_vjp_f32(const GatedNormVjpParams<float>& q, int64_t row, float* v, float* dw, float* db) {
  norm_row_vjp(q, row, v, dw, db);
}
HWY_ATTR void norm_row_vjp_f64(const GatedNormVjpParams<double>& q, int64_t row, double* v, double* dw,
                               double* db) {
  norm_row_vjp(q, row, v, dw, db);
}

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
