// Layer norm over rows for one instruction set. Included once per target by
// cpu.cc.
//
// A row is read from memory once (twice more from the cache)
// and written once. The deviations are summed around the finished mean, so a
// large common offset costs no digits. The gradient recomputes mean and scale,
// which is cheaper than storing them. The gradients of weight and bias are
// collected per block of rows in private rows, which stay in the L1 cache; the
// blocks' rows are then added in a fixed tree.

#include <cmath>
#include <cstring>

#include "aspis/simd/loops-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

template <typename T>
HWY_ATTR void layer_norm_rows(const LayerNormParams<T>& p, int64_t first, int64_t last) {
  const hn::ScalableTag<T> d;
  const int64_t n = p.length;
  const T count = static_cast<T>(n);
  for (int64_t r = first; r < last; r++) {
    const T* h = p.x + r * p.x_stride;
    T total;
    if (p.residual) {
      T* sum = p.sum + r * n;
      total = simd::MapSumArrays(
          d, n, sum, [](auto, auto a, auto b) HWY_ATTR { return hn::Add(a, b); }, h,
          p.residual + r * p.residual_stride);
      h = sum;
    } else {
      total = simd::SumArrays(
          d, n, [](auto, auto v) HWY_ATTR { return v; }, h);
    }
    const auto m = hn::Set(d, total / count);
    const T squares = simd::SumArrays(
        d, n,
        [m](auto, auto v) HWY_ATTR {
          const auto c = hn::Sub(v, m);
          return hn::Mul(c, c);
        },
        h);
    const auto s = hn::Set(d, T(1) / std::sqrt(squares / count + static_cast<T>(p.eps)));
    T* y = p.y + r * n;
    if (p.weight && p.bias) {
      simd::MapArrays(
          d, n, y,
          [m, s](auto, auto v, auto w, auto b) HWY_ATTR { return hn::MulAdd(hn::Mul(hn::Sub(v, m), s), w, b); }, h,
          p.weight, p.bias);
    } else if (p.weight) {
      simd::MapArrays(
          d, n, y, [m, s](auto, auto v, auto w) HWY_ATTR { return hn::Mul(hn::Mul(hn::Sub(v, m), s), w); }, h,
          p.weight);
    } else if (p.bias) {
      simd::MapArrays(
          d, n, y, [m, s](auto, auto v, auto b) HWY_ATTR { return hn::MulAdd(hn::Sub(v, m), s, b); }, h, p.bias);
    } else {
      simd::MapArrays(
          d, n, y, [m, s](auto, auto v) HWY_ATTR { return hn::Mul(hn::Sub(v, m), s); }, h);
    }
  }
}

// What the gradient of one row needs: the mean, 1 / root of the variance, and
// the means of g and g d (g = dy weight, d = h - mean).
template <typename T>
struct LayerNormRowSums {
  T mean, scale, mean_g, mean_gd;
};

template <typename T>
HWY_ATTR LayerNormRowSums<T> layer_norm_row_sums(const LayerNormVjpParams<T>& p, const T* h, const T* dy) {
  const hn::ScalableTag<T> d;
  const int64_t n = p.length;
  const T count = static_cast<T>(n);
  T total, total_g, squares, products;
  if (p.weight) {
    simd::SumArrays2(
        d, n, total, total_g,
        [](auto, auto& a, auto& b, auto v, auto g, auto w) HWY_ATTR {
          a = v;
          b = hn::Mul(g, w);
        },
        h, dy, p.weight);
  } else {
    simd::SumArrays2(
        d, n, total, total_g,
        [](auto, auto& a, auto& b, auto v, auto g) HWY_ATTR {
          a = v;
          b = g;
        },
        h, dy);
  }
  const T mean = total / count;
  const auto m = hn::Set(d, mean);
  if (p.weight) {
    simd::SumArrays2(
        d, n, squares, products,
        [m](auto, auto& a, auto& b, auto v, auto g, auto w) HWY_ATTR {
          const auto c = hn::Sub(v, m);
          a = hn::Mul(c, c);
          b = hn::Mul(hn::Mul(g, w), c);
        },
        h, dy, p.weight);
  } else {
    simd::SumArrays2(
        d, n, squares, products,
        [m](auto, auto& a, auto& b, auto v, auto g) HWY_ATTR {
          const auto c = hn::Sub(v, m);
          a = hn::Mul(c, c);
          b = hn::Mul(g, c);
        },
        h, dy);
  }
  return {mean, T(1) / std::sqrt(squares / count + static_cast<T>(p.eps)), total_g / count, products / count};
}

// Gradient of one row. `dweight` and `dbias` are the block's private sums, or null.
template <typename T>
HWY_ATTR void layer_norm_vjp_row(const LayerNormVjpParams<T>& p, int64_t r, T* dweight, T* dbias) {
  const hn::ScalableTag<T> d;
  const int64_t n = p.length;
  const T *h = p.h + r * p.h_stride, *dy = p.dy + r * p.dy_stride;
  const auto sums = layer_norm_row_sums(p, h, dy);
  const auto m = hn::Set(d, sums.mean), s = hn::Set(d, sums.scale), mg = hn::Set(d, sums.mean_g);
  const auto k = hn::Set(d, sums.scale * sums.scale * sums.mean_gd);
  // A row of one element does not depend on h: its gradient is exactly 0. Compilers
  // fuse g w - mean(g w), which would leave the product's rounding times 1 / sqrt(eps).
  const auto outer = n == 1 ? hn::Zero(d) : s;
  T* dx = p.dx + r * n;
  const T* dsum = p.dsum ? p.dsum + r * p.dsum_stride : nullptr;
  // (g - mean(g) - d k), still to be scaled.
  const auto inner = [m, mg, k](auto v, auto g)
                         HWY_ATTR { return hn::NegMulAdd(hn::Sub(v, m), k, hn::Sub(g, mg)); };
  if (p.weight && dsum) {
    simd::MapArrays(
        d, n, dx,
        [outer, inner](auto, auto v, auto g, auto w, auto e)
            HWY_ATTR { return hn::MulAdd(inner(v, hn::Mul(g, w)), outer, e); },
        h, dy, p.weight, dsum);
  } else if (p.weight) {
    simd::MapArrays(
        d, n, dx,
        [outer, inner](auto, auto v, auto g, auto w) HWY_ATTR { return hn::Mul(inner(v, hn::Mul(g, w)), outer); },
        h, dy, p.weight);
  } else if (dsum) {
    simd::MapArrays(
        d, n, dx,
        [outer, inner](auto, auto v, auto g, auto e) HWY_ATTR { return hn::MulAdd(inner(v, g), outer, e); }, h, dy,
        dsum);
  } else {
    simd::MapArrays(
        d, n, dx, [outer, inner](auto, auto v, auto g) HWY_ATTR { return hn::Mul(inner(v, g), outer); }, h, dy);
  }
  if (dweight) {
    simd::MapArrays(
        d, n, dweight,
        [m, s](auto, auto sum, auto v, auto g) HWY_ATTR { return hn::MulAdd(hn::Mul(hn::Sub(v, m), s), g, sum); },
        dweight, h, dy);
  }
  if (dbias) {
    simd::MapArrays(
        d, n, dbias, [](auto, auto sum, auto g) HWY_ATTR { return hn::Add(sum, g); }, dbias, dy);
  }
}

template <typename T>
HWY_ATTR void layer_norm_vjp_rows(const LayerNormVjpParams<T>& p, int64_t first, int64_t last, T* dweight,
                                  T* dbias) {
  const auto bytes = static_cast<size_t>(p.length) * sizeof(T);
  if (dweight) std::memset(dweight, 0, bytes);
  if (dbias) std::memset(dbias, 0, bytes);
  for (int64_t r = first; r < last; r++) layer_norm_vjp_row(p, r, dweight, dbias);
}

#define ASPIS_LAYER_NORM_FOR(T, suffix)                                                                          \
  HWY_ATTR void layer_norm_##suffix(const LayerNormParams<T>& p, int64_t first, int64_t last) {                  \
    layer_norm_rows(p, first, last);                                                                             \
  }                                                                                                              \
  HWY_ATTR void layer_norm_vjp_##suffix(const LayerNormVjpParams<T>& p, int64_t first, int64_t last, T* dweight, \
                                        T* dbias) {                                                              \
    layer_norm_vjp_rows(p, first, last, dweight, dbias);                                                         \
  }
ASPIS_LAYER_NORM_FOR(float, f32)
ASPIS_LAYER_NORM_FOR(double, f64)
#undef ASPIS_LAYER_NORM_FOR

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
