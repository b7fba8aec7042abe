// Layer and RMS norm of rows for one instruction set. Included once per target by
// cpu.cc.
//
// A row is read from memory once (twice more from the cache) and written once.
// The deviations are summed around the finished mean, so a large common offset
// costs no digits. The gradient takes mean and scale from the forward pass: one
// pass sums, one writes dx and the sums of dweight and dbias. The last pass over a
// row asks for the next one: sums over a row and its reading would take turns
// otherwise.

#include <cmath>
#include <cstring>

#include "aspis/simd/loops-inl.h"
#include "aspis/simd/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

// h = x, or h = x + residual where the sum is stored with fewer digits than it has:
// the norm is that of the exact sum.
template <typename S, typename T, bool kPair>
struct RowOfH {
  const S *x, *residual;

  // Sum over the row of f(h).
  template <class D, class F>
  HWY_INLINE T Sum(D d, int64_t n, const F& f) const {
    if constexpr (kPair) {
      return simd::SumArrays(
          d, n, [&f](auto tag, auto a, auto b) HWY_ATTR { return f(tag, hn::Add(a, b)); }, x, residual);
    } else {
      return simd::SumArrays(d, n, f, x);
    }
  }
  template <class D, class Part>
  HWY_INLINE hn::Vec<D> Load(D d, int64_t i, Part part) const {
    if constexpr (kPair) return hn::Add(simd::LoadPart(d, x + i, part), simd::LoadPart(d, residual + i, part));
    return simd::LoadPart(d, x + i, part);
  }
};

// y = (h - mean) scale weight + bias of one row; `next` is where the next row of
// x and of the residual begin.
template <bool kWeight, bool kBias, typename S, typename T, class Row>
HWY_INLINE void norm_finish(const RowNormParams<S>& p, const Row& h, T mean, T scale, S* y, const S* next,
                            const S* next_residual) {
  const hn::ScalableTag<T> d;
  const auto m = hn::Set(d, mean), s = hn::Set(d, scale);
  simd::ForVectors(d, p.length, [&](int64_t i, auto part) HWY_ATTR {
    simd::PrefetchAny(next + i);
    if (next_residual) simd::PrefetchAny(next_residual + i);
    auto v = hn::Mul(hn::Sub(h.Load(d, i, part), m), s);
    if constexpr (kWeight && kBias) {
      v = hn::MulAdd(v, simd::LoadPart(d, p.weight + i, part), simd::LoadPart(d, p.bias + i, part));
    } else if constexpr (kWeight) {
      v = hn::Mul(v, simd::LoadPart(d, p.weight + i, part));
    } else if constexpr (kBias) {
      v = hn::Add(v, simd::LoadPart(d, p.bias + i, part));
    }
    simd::StorePart(v, d, y + i, part);
  });
}

// Statistics and result of one row; `total` is the sum of h, where it is known.
template <bool kCenter, bool kWeight, bool kBias, typename S, typename T, class Row>
HWY_INLINE void norm_row(const RowNormParams<S>& p, const Row& h, int64_t r, int64_t next, const T* total) {
  const hn::ScalableTag<T> d;
  const T count = static_cast<T>(p.length);
  T mean = 0;
  if constexpr (kCenter) {
    mean = (total ? *total : h.Sum(d, p.length, [](auto, auto v) HWY_ATTR { return v; })) / count;
  }
  const auto m = hn::Set(d, mean);
  const T squares = h.Sum(d, p.length, [m](auto, auto v) HWY_ATTR {
    const auto c = kCenter ? hn::Sub(v, m) : v;
    return hn::Mul(c, c);
  });
  const T scale = T(1) / std::sqrt(squares / count + static_cast<T>(p.eps));
  p.mean[r] = mean;
  p.scale[r] = scale;
  norm_finish<kWeight, kBias>(p, h, mean, scale, p.y + r * p.length, p.x + next * p.x_stride,
                              p.residual ? p.residual + next * p.residual_stride : nullptr);
}

template <bool kCenter, bool kWeight, bool kBias, typename S, typename T = Arithmetic<S>>
HWY_ATTR void norm_rows(const RowNormParams<S>& p, int64_t first, int64_t last) {
  const hn::ScalableTag<T> d;
  const int64_t n = p.length;
  const auto add = [](auto, auto a, auto b) HWY_ATTR { return hn::Add(a, b); };
  for (int64_t r = first; r < last; r++) {
    const S* x = p.x + r * p.x_stride;
    const int64_t next = r + 1 < last ? r + 1 : r;
    if (!p.residual) {
      norm_row<kCenter, kWeight, kBias, S, T>(p, RowOfH<S, T, false>{x, nullptr}, r, next, nullptr);
      continue;
    }
    S* sum = p.sum + r * n;
    const S* residual = p.residual + r * p.residual_stride;
    const T total = simd::MapSumArrays(d, n, sum, add, x, residual);
    if constexpr (std::is_same_v<S, T>) {
      norm_row<kCenter, kWeight, kBias, S, T>(p, RowOfH<S, T, false>{sum, nullptr}, r, next, &total);
    } else {
      norm_row<kCenter, kWeight, kBias, S, T>(p, RowOfH<S, T, true>{x, residual}, r, next, &total);
    }
  }
}

// Means of g and g d over a row (g = dy weight, d = h - mean).
template <bool kCenter, bool kWeight, typename S, typename T = Arithmetic<S>>
HWY_INLINE void row_means(const RowNormVjpParams<S>& p, const S* h, const S* dy, T mean, T& mean_g, T& mean_gd) {
  const hn::ScalableTag<T> d;
  const auto m = hn::Set(d, mean);
  T sum_g = 0, sum_gd = 0;
  if constexpr (kWeight) {
    simd::SumArrays2(
        d, p.length, sum_g, sum_gd,
        [m](auto, auto& a, auto& b, auto v, auto e, auto w) HWY_ATTR {
          a = hn::Mul(e, w);
          b = hn::Mul(a, hn::Sub(v, m));
        },
        h, dy, p.weight);
  } else {
    simd::SumArrays2(
        d, p.length, sum_g, sum_gd,
        [m](auto, auto& a, auto& b, auto v, auto e) HWY_ATTR {
          a = e;
          b = hn::Mul(e, hn::Sub(v, m));
        },
        h, dy);
  }
  mean_g = kCenter ? sum_g / static_cast<T>(p.length) : T(0);
  mean_gd = sum_gd / static_cast<T>(p.length);
}

// Gradient of rows. `dweight` and `dbias` are the block's private sums, or null.
template <bool kCenter, bool kWeight, bool kBias, typename S, typename T = Arithmetic<S>>
HWY_ATTR void norm_vjp_rows(const RowNormVjpParams<S>& p, int64_t first, int64_t last, T* dweight, T* dbias) {
  const hn::ScalableTag<T> d;
  const int64_t n = p.length;
  if (kWeight) std::memset(dweight, 0, static_cast<size_t>(n) * sizeof(T));
  if (kBias) std::memset(dbias, 0, static_cast<size_t>(n) * sizeof(T));
  for (int64_t r = first; r < last; r++) {
    const S *h = p.h + r * p.h_stride, *dy = p.dy + r * p.dy_stride;
    const T mean = p.mean[r], scale = p.scale[r];
    T mean_g, mean_gd;
    row_means<kCenter, kWeight>(p, h, dy, mean, mean_g, mean_gd);
    const auto m = hn::Set(d, mean), s = hn::Set(d, scale), mg = hn::Set(d, mean_g);
    const auto k = hn::Set(d, scale * scale * mean_gd);
    // A centred row of one element does not depend on h: its gradient is exactly 0. Compilers
    // fuse g w - mean(g w), which would leave the product's rounding times 1 / sqrt(eps).
    const auto outer = kCenter && n == 1 ? hn::Zero(d) : s;
    S* dx = p.dx + r * n;
    const S* dsum = p.dsum ? p.dsum + r * p.dsum_stride : nullptr;
    const int64_t ahead = r + 1 < last ? 1 : 0;
    const S *next_h = h + ahead * p.h_stride, *next_dy = dy + ahead * p.dy_stride;
    const S* next_dsum = dsum ? dsum + ahead * p.dsum_stride : nullptr;
    const auto row = [&](int64_t i, auto part, auto has_dsum) HWY_ATTR {
      simd::PrefetchAny(next_h + i);
      simd::PrefetchAny(next_dy + i);
      const auto c = hn::Sub(simd::LoadPart(d, h + i, part), m);
      const auto e = simd::LoadPart(d, dy + i, part);
      auto g = e;
      if constexpr (kWeight) {
        g = hn::Mul(e, simd::LoadPart(d, p.weight + i, part));
        const auto w = hn::MulAdd(hn::Mul(c, s), e, simd::LoadPart(d, dweight + i, part));
        simd::StorePart(w, d, dweight + i, part);
      }
      if constexpr (kBias) {
        simd::StorePart(hn::Add(simd::LoadPart(d, dbias + i, part), e), d, dbias + i, part);
      }
      const auto inner = hn::NegMulAdd(c, k, kCenter ? hn::Sub(g, mg) : g);
      if constexpr (decltype(has_dsum)::value) {
        simd::PrefetchAny(next_dsum + i);
        simd::StorePart(hn::MulAdd(inner, outer, simd::LoadPart(d, dsum + i, part)), d, dx + i, part);
      } else {
        simd::StorePart(hn::Mul(inner, outer), d, dx + i, part);
      }
    };
    if (dsum) {
      simd::ForVectors(d, n, [&](int64_t i, auto part) HWY_ATTR { row(i, part, std::true_type()); });
    } else {
      simd::ForVectors(d, n, [&](int64_t i, auto part) HWY_ATTR { row(i, part, std::false_type()); });
    }
  }
}

// Calls f with three flags as types.
template <class F>
HWY_INLINE void with_flags(bool a, bool b, bool c, const F& f) {
  const auto last = [&](auto x, auto y) HWY_ATTR { c ? f(x, y, std::true_type()) : f(x, y, std::false_type()); };
  const auto middle = [&](auto x) HWY_ATTR { b ? last(x, std::true_type()) : last(x, std::false_type()); };
  a ? middle(std::true_type()) : middle(std::false_type());
}

// Tiles of columns: `count` positions of a sample, all `length` channels. The
// lines of sums that a tile needs have kTile values.
inline constexpr int64_t kTile = 256;

// Mean and 1 / root of the variance at every position of a tile.
template <bool kCenter, typename S, typename T>
HWY_INLINE void tile_statistics(const S* x, int64_t length, int64_t step, int64_t count, double eps, T* mean,
                                T* scale) {
  const hn::ScalableTag<T> d;
  const auto inverse = hn::Set(d, T(1) / static_cast<T>(length));
  std::memset(mean, 0, kTile * sizeof(T));
  std::memset(scale, 0, kTile * sizeof(T));
  if constexpr (kCenter) {
    for (int64_t c = 0; c < length; c++) {
      simd::MapArrays(
          d, count, mean, [](auto, auto a, auto v) HWY_ATTR { return hn::Add(a, v); }, mean, x + c * step);
    }
    simd::MapArrays(
        d, count, mean, [inverse](auto, auto a) HWY_ATTR { return hn::Mul(a, inverse); }, mean);
  }
  for (int64_t c = 0; c < length; c++) {
    simd::MapArrays(
        d, count, scale,
        [](auto, auto a, auto v, auto m) HWY_ATTR {
          const auto e = hn::Sub(v, m);
          return hn::MulAdd(e, e, a);
        },
        scale, x + c * step, mean);
  }
  const auto add = hn::Set(d, static_cast<T>(eps)), one = hn::Set(d, T(1));
  simd::MapArrays(
      d, count, scale, [=](auto, auto a) HWY_ATTR { return hn::Div(one, hn::Sqrt(hn::MulAdd(a, inverse, add))); },
      scale);
}

template <bool kCenter, typename S, typename T = Arithmetic<S>>
HWY_ATTR void norm_tile(const ColumnNormParams<S>& p, int64_t sample, int64_t first, int64_t count) {
  const hn::ScalableTag<T> d;
  HWY_ALIGN T mean[kTile], scale[kTile];
  const int64_t at = sample * p.length * p.positions + first;
  tile_statistics<kCenter>(p.x + at, p.length, p.positions, count, p.eps, mean, scale);
  std::copy(mean, mean + count, p.mean + sample * p.positions + first);
  std::copy(scale, scale + count, p.scale + sample * p.positions + first);
  for (int64_t c = 0; c < p.length; c++) {
    const auto w = hn::Set(d, p.weight ? p.weight[c] : T(1)), b = hn::Set(d, p.bias ? p.bias[c] : T(0));
    simd::MapArrays(
        d, count, p.y + at + c * p.positions,
        [w, b](auto, auto v, auto m, auto s) HWY_ATTR { return hn::MulAdd(hn::Mul(hn::Sub(v, m), s), w, b); },
        p.x + at + c * p.positions, mean, scale);
  }
}

// Gradient of a tile; `dweight` and `dbias` are its private sums, or null.
template <bool kCenter, typename S, typename T = Arithmetic<S>>
HWY_ATTR void norm_vjp_tile(const ColumnNormVjpParams<S>& p, int64_t sample, int64_t first, int64_t count,
                            T* dweight, T* dbias) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  HWY_ALIGN T sum_g[kTile], sum_gd[kTile];
  const int64_t at = sample * p.length * p.positions + first;
  const T *mean = p.mean + sample * p.positions + first, *scale = p.scale + sample * p.positions + first;
  std::memset(sum_g, 0, sizeof sum_g);
  std::memset(sum_gd, 0, sizeof sum_gd);
  for (int64_t c = 0; c < p.length; c++) {
    const S *x = p.x + at + c * p.positions, *dy = p.dy + at + c * p.positions;
    const V w = hn::Set(d, p.weight ? p.weight[c] : T(1));
    V weight_sum = hn::Zero(d), bias_sum = hn::Zero(d);
    simd::ForVectors(d, count, [&](int64_t i, auto part) HWY_ATTR {
      // Behind the end dy is 0, and so is everything that is added.
      const V e = simd::LoadPart(d, dy + i, part), g = hn::Mul(e, w);
      const V centred = hn::Sub(simd::LoadPart(d, x + i, part), simd::LoadPart(d, mean + i, part));
      if constexpr (kCenter) hn::Store(hn::Add(hn::Load(d, sum_g + i), g), d, sum_g + i);
      hn::Store(hn::MulAdd(g, centred, hn::Load(d, sum_gd + i)), d, sum_gd + i);
      weight_sum = hn::MulAdd(hn::Mul(centred, simd::LoadPart(d, scale + i, part)), e, weight_sum);
      bias_sum = hn::Add(bias_sum, e);
    });
    if (dweight) dweight[c] = simd::LaneSum(d, weight_sum);
    if (dbias) dbias[c] = simd::LaneSum(d, bias_sum);
  }
  // sum_g becomes mean(g), sum_gd becomes r^2 mean(g d).
  const auto inverse = hn::Set(d, T(1) / static_cast<T>(p.length));
  simd::MapArrays(
      d, count, sum_g, [inverse](auto, auto a) HWY_ATTR { return hn::Mul(a, inverse); }, sum_g);
  simd::MapArrays(
      d, count, sum_gd,
      [inverse](auto, auto a, auto s) HWY_ATTR { return hn::Mul(hn::Mul(a, inverse), hn::Mul(s, s)); }, sum_gd,
      scale);
  const auto constant = hn::Set(d, kCenter && p.length == 1 ? T(0) : T(1));  // see norm_vjp_rows
  for (int64_t c = 0; c < p.length; c++) {
    const S *x = p.x + at + c * p.positions, *dy = p.dy + at + c * p.positions;
    const auto w = hn::Set(d, p.weight ? p.weight[c] : T(1));
    simd::MapArrays(
        d, count, p.dx + at + c * p.positions,
        [w, constant](auto, auto v, auto e, auto m, auto s, auto mg, auto k) HWY_ATTR {
          const auto inner = hn::NegMulAdd(hn::Sub(v, m), k, hn::MulSub(e, w, mg));
          return hn::Mul(hn::Mul(inner, s), constant);
        },
        x, dy, mean, scale, sum_g, sum_gd);
  }
}

#define ASPIS_ROW_NORM_FOR(S, T, suffix)                                                                      \
  HWY_ATTR void row_norm_##suffix(const RowNormParams<S>& p, int64_t first, int64_t last) {                   \
    with_flags(p.center, p.weight, p.bias, [&](auto center, auto weight, auto bias) HWY_ATTR {                \
      norm_rows<decltype(center)::value, decltype(weight)::value, decltype(bias)::value>(p, first, last);     \
    });                                                                                                       \
  }                                                                                                           \
  HWY_ATTR void row_norm_vjp_##suffix(const RowNormVjpParams<S>& p, int64_t first, int64_t last, T* dweight,  \
                                      T* dbias) {                                                             \
    with_flags(p.center, p.weight, p.dbias, [&](auto center, auto weight, auto bias) HWY_ATTR {               \
      norm_vjp_rows<decltype(center)::value, decltype(weight)::value, decltype(bias)::value>(p, first, last,  \
                                                                                             dweight, dbias); \
    });                                                                                                       \
  }                                                                                                           \
  HWY_ATTR void column_norm_##suffix(const ColumnNormParams<S>& p, int64_t sample, int64_t first,             \
                                     int64_t count) {                                                         \
    p.center ? norm_tile<true>(p, sample, first, count) : norm_tile<false>(p, sample, first, count);          \
  }                                                                                                           \
  HWY_ATTR void column_norm_vjp_##suffix(const ColumnNormVjpParams<S>& p, int64_t sample, int64_t first,      \
                                         int64_t count, T* dweight, T* dbias) {                               \
    p.center ? norm_vjp_tile<true>(p, sample, first, count, dweight, dbias)                                   \
             : norm_vjp_tile<false>(p, sample, first, count, dweight, dbias);                                 \
  }
ASPIS_ROW_NORM_FOR(float, float, f32)
ASPIS_ROW_NORM_FOR(double, double, f64)
ASPIS_ROW_NORM_FOR(Bf16, float, bf16)
#undef ASPIS_ROW_NORM_FOR

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
