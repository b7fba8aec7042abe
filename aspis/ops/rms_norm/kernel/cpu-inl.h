// RMS norm over rows for one instruction set. Included once per target by
// cpu.cc.
//
// Bound by memory: a row is read from memory once (twice from the cache) and
// written once. The gradient recomputes the row's scale, which is cheaper than
// storing it. The gradient of the weight is collected per block of rows in a
// private row, which stays in the L1 cache; the blocks' rows are then added in
// a fixed tree.

#include <cmath>

#include "aspis/simd/loops-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

template <typename T>
HWY_ATTR void rms_norm_rows(const RmsNormParams<T>& p, int64_t first, int64_t last) {
  const hn::ScalableTag<T> d;
  const int64_t n = p.length;
  for (int64_t r = first; r < last; r++) {
    const T* h = p.x + r * p.x_stride;
    if (p.residual) {
      T* sum = p.sum + r * n;
      simd::MapArrays(
          d, n, sum, [](auto, auto a, auto b) HWY_ATTR { return hn::Add(a, b); }, h,
          p.residual + r * p.residual_stride);
      h = sum;
    }
    const T squares = simd::SumArrays(d, n, [](auto, auto v) HWY_ATTR { return hn::Mul(v, v); }, h);
    const auto scale = hn::Set(d, T(1) / std::sqrt(squares / static_cast<T>(n) + static_cast<T>(p.eps)));
    T* y = p.y + r * n;
    if (p.weight) {
      simd::MapArrays(
          d, n, y, [scale](auto, auto v, auto w) HWY_ATTR { return hn::Mul(hn::Mul(v, scale), w); }, h, p.weight);
    } else {
      simd::MapArrays(d, n, y, [scale](auto, auto v) HWY_ATTR { return hn::Mul(v, scale); }, h);
    }
  }
}

// Gradient of one row. `dweight` is the block's private sum, or null.
template <typename T>
HWY_ATTR void rms_norm_vjp_row(const RmsNormVjpParams<T>& p, int64_t r, T* dweight) {
  const hn::ScalableTag<T> d;
  const int64_t n = p.length;
  const T *h = p.h + r * p.h_stride, *dy = p.dy + r * p.dy_stride;
  T squares, products;
  if (p.weight) {
    simd::SumArrays2(
        d, n, squares, products,
        [](auto, auto& a, auto& b, auto v, auto g, auto w) HWY_ATTR {
          a = hn::Mul(v, v);
          b = hn::Mul(hn::Mul(g, w), v);
        },
        h, dy, p.weight);
  } else {
    simd::SumArrays2(
        d, n, squares, products,
        [](auto, auto& a, auto& b, auto v, auto g) HWY_ATTR {
          a = hn::Mul(v, v);
          b = hn::Mul(g, v);
        },
        h, dy);
  }
  const T scale = T(1) / std::sqrt(squares / static_cast<T>(n) + static_cast<T>(p.eps));
  const auto s = hn::Set(d, scale);
  const auto c = hn::Set(d, scale * scale * scale * (products / static_cast<T>(n)));
  T* dx = p.dx + r * n;
  const T* dsum = p.dsum ? p.dsum + r * p.dsum_stride : nullptr;
  if (p.weight && dsum) {
    simd::MapArrays(
        d, n, dx,
        [s, c](auto, auto v, auto g, auto w, auto e) HWY_ATTR {
          return hn::MulAdd(hn::Mul(g, w), s, hn::NegMulAdd(v, c, e));
        },
        h, dy, p.weight, dsum);
  } else if (p.weight) {
    simd::MapArrays(
        d, n, dx,
        [s, c](auto, auto v, auto g, auto w) HWY_ATTR { return hn::NegMulAdd(v, c, hn::Mul(hn::Mul(g, w), s)); }, h,
        dy, p.weight);
  } else if (dsum) {
    simd::MapArrays(
        d, n, dx,
        [s, c](auto, auto v, auto g, auto e) HWY_ATTR { return hn::MulAdd(g, s, hn::NegMulAdd(v, c, e)); }, h, dy,
        dsum);
  } else {
    simd::MapArrays(
        d, n, dx, [s, c](auto, auto v, auto g) HWY_ATTR { return hn::NegMulAdd(v, c, hn::Mul(g, s)); }, h, dy);
  }
  if (dweight) {
    simd::MapArrays(
        d, n, dweight, [s](auto, auto sum, auto v, auto g) HWY_ATTR { return hn::MulAdd(hn::Mul(v, s), g, sum); },
        dweight, h, dy);
  }
}

template <typename T>
HWY_ATTR void rms_norm_vjp_rows(const RmsNormVjpParams<T>& p, int64_t first, int64_t last, T* dweight) {
  if (dweight) std::memset(dweight, 0, static_cast<size_t>(p.length) * sizeof(T));
  for (int64_t r = first; r < last; r++) rms_norm_vjp_row(p, r, dweight);
}

#define ASPIS_RMS_NORM_FOR(T, suffix)                                                               \
  HWY_ATTR void rms_norm_##suffix(const RmsNormParams<T>& p, int64_t first, int64_t last) {         \
    rms_norm_rows(p, first, last);                                                                  \
  }                                                                                                 \
  HWY_ATTR void rms_norm_vjp_##suffix(const RmsNormVjpParams<T>& p, int64_t first, int64_t last, T* dweight) { \
    rms_norm_vjp_rows(p, first, last, dweight);                                                     \
  }
ASPIS_RMS_NORM_FOR(float, f32)
ASPIS_RMS_NORM_FOR(double, f64)
#undef ASPIS_RMS_NORM_FOR

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
