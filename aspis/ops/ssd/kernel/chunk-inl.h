// The loops of chunk.h for one instruction set. Included once per target by
// chunk.cc.

#include "aspis/simd/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

// Whole vectors, which most are, without a mask.
template <class D, typename T = hn::TFromD<D>>
HWY_ATTR HWY_INLINE hn::Vec<D> LoadPart(D d, const T* p, size_t n) {
  return HWY_LIKELY(n == hn::Lanes(d)) ? hn::LoadU(d, p) : simd::LoadTail(d, p, n);
}
template <class D, typename T = hn::TFromD<D>>
HWY_ATTR HWY_INLINE void StorePart(hn::Vec<D> v, D d, T* p, size_t n) {
  if (HWY_LIKELY(n == hn::Lanes(d))) {
    hn::StoreU(v, d, p);
  } else {
    simd::StoreTail(v, d, p, n);
  }
}

// exp(sums_t - sums_s) where t comes after s (or is s) and both are of one
// sequence, else 0. The difference is formed first: a product of two
// exponentials could overflow. Running sums of negative numbers never rise, so
// that the difference is not positive unless A is.
template <class D, typename T = hn::TFromD<D>>
HWY_ATTR HWY_INLINE hn::Vec<D> decay(D d, const ChunkDecays<T>& c, int64_t s, int64_t t, size_t n) {
  const auto difference = hn::Sub(LoadPart(d, c.sums + t, n), hn::Set(d, c.sums[s]));
  // Lanes behind the last token have no part either.
  const auto after =
      hn::And(hn::Ge(hn::Iota(d, static_cast<T>(t)), hn::Set(d, static_cast<T>(s))), hn::FirstN(d, n));
  auto e = hn::IfThenElseZero(after, simd::Exp(d, hn::IfThenElseZero(after, difference)));
  if (c.segments) {
    const auto same = hn::Eq(LoadPart(d, c.segments + t, n), hn::Set(d, c.segments[s]));
    e = hn::IfThenElseZero(same, e);
  }
  return e;
}

template <typename T>
HWY_ATTR void weigh(const ChunkDecays<T>& c, const T* scores, T* W) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t s = 0; s < c.n; s++) {
    const auto weight = hn::Set(d, c.weights[s]);
    for (int64_t t = 0; t < c.n; t += lanes) {
      const size_t n = static_cast<size_t>(HWY_MIN(lanes, c.n - t));
      const int64_t at = s * c.stride + t;
      if (t + lanes <= s) {
        StorePart(hn::Zero(d), d, W + at, n);
        continue;
      }
      const auto e = decay(d, c, s, t, n);
      const auto product = hn::Mul(LoadPart(d, scores + at, n), hn::Mul(e, weight));
      // 0 times an infinite score would be NaN where nothing may arrive.
      StorePart(hn::IfThenZeroElse(hn::Eq(e, hn::Zero(d)), product), d, W + at, n);
    }
  }
}

template <typename T>
HWY_ATTR void weigh_vjp(const ChunkDecays<T>& c, const T* scores, const T* dW, T* W, T* dscores, T* spans,
                        T* dweights) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t s = 0; s < c.n; s++) {
    const auto weight = hn::Set(d, c.weights[s]);
    auto sum = hn::Zero(d);
    for (int64_t t = 0; t < c.n; t += lanes) {
      const size_t n = static_cast<size_t>(HWY_MIN(lanes, c.n - t));
      const int64_t at = s * c.stride + t;
      if (t + lanes <= s) {
        StorePart(hn::Zero(d), d, W + at, n);
        StorePart(hn::Zero(d), d, spans + at, n);
        continue;
      }
      const auto e = decay(d, c, s, t, n);
      const auto none = hn::Eq(e, hn::Zero(d));
      const auto score = hn::IfThenZeroElse(none, LoadPart(d, scores + at, n));
      const auto grad = hn::IfThenZeroElse(none, LoadPart(d, dW + at, n));
      const auto ew = hn::Mul(e, weight);
      StorePart(hn::Mul(score, ew), d, W + at, n);
      StorePart(hn::MulAdd(grad, ew, LoadPart(d, dscores + at, n)), d, dscores + at, n);
      const auto both = hn::Mul(grad, score);
      sum = hn::MulAdd(both, e, sum);
      const auto later = hn::Gt(hn::Iota(d, static_cast<T>(t)), hn::Set(d, static_cast<T>(s)));
      StorePart(hn::IfThenElseZero(later, hn::Mul(both, ew)), d, spans + at, n);
    }
    dweights[s] = simd::LaneSum(d, sum);
  }
}

template <typename T>
HWY_ATTR void span_sums(int64_t n, int64_t stride, const T* spans, T* scratch, T* dlog) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t t = 0; t < n; t += lanes) hn::StoreU(hn::Zero(d), d, scratch + t);
  for (int64_t k = 0; k < n; k++) {
    auto sum = hn::Zero(d);
    const auto from = hn::Set(d, static_cast<T>(k));
    for (int64_t t = 0; t < n; t += lanes) {
      auto column = hn::LoadU(d, scratch + t);
      if (k > 0) {
        const size_t m = static_cast<size_t>(HWY_MIN(lanes, n - t));
        column = hn::Add(column, LoadPart(d, spans + (k - 1) * stride + t, m));
        hn::StoreU(column, d, scratch + t);
      }
      sum = hn::Add(sum, hn::IfThenElseZero(hn::Ge(hn::Iota(d, static_cast<T>(t)), from), column));
    }
    dlog[k] += simd::LaneSum(d, sum);
  }
}

template <typename T>
HWY_ATTR void scale_rows(int64_t n, int64_t width, const T* scale, const T* from, int64_t from_stride, T* to,
                         int64_t to_stride) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t i = 0; i < n; i++) {
    const T* a = from + i * from_stride;
    T* b = to + i * to_stride;
    const auto s = hn::Set(d, scale[i]);
    int64_t c = 0;
    for (; c + lanes <= width; c += lanes) hn::StoreU(hn::Mul(s, hn::LoadU(d, a + c)), d, b + c);
    for (; c < width; c++) b[c] = scale[i] * a[c];
  }
}

template <typename T>
HWY_ATTR void add_rows(int64_t n, int64_t width, const T* scale, const T* from, int64_t from_stride, T* to,
                       int64_t to_stride) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t i = 0; i < n; i++) {
    const T* a = from + i * from_stride;
    T* b = to + i * to_stride;
    const auto s = hn::Set(d, scale[i]);
    int64_t c = 0;
    for (; c + lanes <= width; c += lanes)
      hn::StoreU(hn::MulAdd(s, hn::LoadU(d, a + c), hn::LoadU(d, b + c)), d, b + c);
    for (; c < width; c++) b[c] += scale[i] * a[c];
  }
}

template <typename T>
HWY_ATTR void row_dots(int64_t n, int64_t width, const T* a, int64_t a_stride, const T* b, int64_t b_stride,
                       T* dots) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t i = 0; i < n; i++) {
    const T *p = a + i * a_stride, *q = b + i * b_stride;
    auto s0 = hn::Zero(d), s1 = s0;
    int64_t c = 0;
    for (; c + 2 * lanes <= width; c += 2 * lanes) {
      s0 = hn::MulAdd(hn::LoadU(d, p + c), hn::LoadU(d, q + c), s0);
      s1 = hn::MulAdd(hn::LoadU(d, p + c + lanes), hn::LoadU(d, q + c + lanes), s1);
    }
    for (; c < width; c += lanes) {
      const size_t m = static_cast<size_t>(HWY_MIN(lanes, width - c));
      s0 = hn::MulAdd(LoadPart(d, p + c, m), LoadPart(d, q + c, m), s0);
    }
    dots[i] = simd::LaneSum(d, hn::Add(s0, s1));
  }
}

template <typename T>
HWY_ATTR void add_column_dots(int64_t n, int64_t width, const T* a, const T* b, int64_t stride, T* sum, T* dots) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t c = 0; c < width; c += lanes) {
    const size_t m = static_cast<size_t>(HWY_MIN(lanes, width - c));
    auto s0 = hn::Zero(d), s1 = s0;
    const auto row = [&](int64_t r) HWY_ATTR {
      const int64_t at = r * stride + c;
      const auto v = LoadPart(d, a + at, m);
      StorePart(hn::Add(v, LoadPart(d, sum + at, m)), d, sum + at, m);
      return v;
    };
    int64_t r = 0;
    for (; r + 2 <= n; r += 2) {
      s0 = hn::MulAdd(row(r), LoadPart(d, b + r * stride + c, m), s0);
      s1 = hn::MulAdd(row(r + 1), LoadPart(d, b + (r + 1) * stride + c, m), s1);
    }
    if (r < n) s0 = hn::MulAdd(row(r), LoadPart(d, b + r * stride + c, m), s0);
    StorePart(hn::Add(s0, s1), d, dots + c, m);
  }
}

template <typename T>
HWY_ATTR void finish(int64_t n, int64_t width, T* y, const T* x, int64_t x_stride, const T* D, bool channel_D,
                     const T* z, int64_t z_stride, T* out, int64_t out_stride, T* before_gate) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t i = 0; i < n; i++) {
    for (int64_t c = 0; c < width; c += lanes) {
      const size_t m = static_cast<size_t>(HWY_MIN(lanes, width - c));
      auto v = LoadPart(d, y + i * width + c, m);
      if (D) {
        const auto skip = channel_D ? LoadPart(d, D + c, m) : hn::Set(d, D[0]);
        v = hn::MulAdd(skip, LoadPart(d, x + i * x_stride + c, m), v);
      }
      if (before_gate) StorePart(v, d, before_gate + i * out_stride + c, m);
      if (z) v = hn::Mul(v, simd::Silu(d, LoadPart(d, z + i * z_stride + c, m)));
      StorePart(v, d, out + i * out_stride + c, m);
    }
  }
}

template <typename T>
HWY_ATTR void gate_vjp(int64_t n, const T* dout, const T* y, const T* z, T* G, T* dz) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t c = 0; c < n; c += lanes) {
    const size_t m = static_cast<size_t>(HWY_MIN(lanes, n - c));
    const auto g = LoadPart(d, dout + c, m);
    auto value = hn::Zero(d), slope = value;
    simd::SiluAndGrad(d, LoadPart(d, z + c, m), value, slope);
    StorePart(hn::Mul(g, value), d, G + c, m);
    StorePart(hn::Mul(hn::Mul(g, LoadPart(d, y + c, m)), slope), d, dz + c, m);
  }
}

template <typename T>
HWY_ATTR void skip_vjp(int64_t n, int64_t width, const T* G, const T* x, int64_t x_stride, const T* D,
                       bool channel_D, T* dx, int64_t dx_stride, T* dD) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t c = 0; c < width; c += lanes) {
    const size_t m = static_cast<size_t>(HWY_MIN(lanes, width - c));
    const auto skip = channel_D ? LoadPart(d, D + c, m) : hn::Set(d, D[0]);
    auto sum = LoadPart(d, dD + c, m);
    for (int64_t i = 0; i < n; i++) {
      const auto g = LoadPart(d, G + i * width + c, m);
      sum = hn::MulAdd(g, LoadPart(d, x + i * x_stride + c, m), sum);
      T* to = dx + i * dx_stride + c;
      StorePart(hn::MulAdd(skip, g, LoadPart(d, to, m)), d, to, m);
    }
    StorePart(sum, d, dD + c, m);
  }
}

template <class D, typename T = hn::TFromD<D>>
HWY_ATTR HWY_INLINE hn::Vec<D> step_value(D d, hn::Vec<D> x, bool softplus) {
  return softplus ? simd::Softplus(d, x) : x;
}

template <typename T>
HWY_ATTR void time_steps(int64_t n, const T* raw, T bias, bool softplus, T low, T high, T* dt) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t i = 0; i < n; i += lanes) {
    const size_t m = static_cast<size_t>(HWY_MIN(lanes, n - i));
    auto v = step_value(d, hn::Add(LoadPart(d, raw + i, m), hn::Set(d, bias)), softplus);
    v = simd::ClampHigh(d, simd::ClampLow(d, v, low), high);
    StorePart(v, d, dt + i, m);
  }
}

template <typename T>
HWY_ATTR void time_slopes(int64_t n, const T* raw, T bias, bool softplus, T low, T high, T* slopes) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t i = 0; i < n; i += lanes) {
    const size_t m = static_cast<size_t>(HWY_MIN(lanes, n - i));
    const auto x = hn::Add(LoadPart(d, raw + i, m), hn::Set(d, bias));
    const auto v = step_value(d, x, softplus);
    const auto outside = hn::Or(hn::Lt(v, hn::Set(d, low)), hn::Gt(v, hn::Set(d, high)));
    const auto slope = softplus ? simd::SoftplusGrad(d, x) : hn::Set(d, T(1));
    StorePart(hn::IfThenZeroElse(outside, slope), d, slopes + i, m);
  }
}

template <typename T>
HWY_ATTR void exponentials(int64_t n, const T* x, T* e) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t i = 0; i < n; i += lanes) {
    const size_t m = static_cast<size_t>(HWY_MIN(lanes, n - i));
    StorePart(simd::Exp(d, LoadPart(d, x + i, m)), d, e + i, m);
  }
}

template <int kRows, typename T>
HWY_ATTR HWY_INLINE void step_rows(int64_t state, T a, T dt, const T* x, const T* B, const T* C, const T* from,
                                   T* to, T* y) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d)), whole = state / lanes * lanes;
  const V decay = hn::Set(d, a);
  V value[kRows], sum[kRows];
  HWY_UNROLL(4) for (int k = 0; k < kRows; k++) {
    value[k] = hn::Set(d, dt * x[k]);
    sum[k] = hn::Zero(d);
  }
  for (int64_t n = 0; n < whole; n += lanes) {
    const V b = hn::LoadU(d, B + n), c = hn::LoadU(d, C + n);
    HWY_UNROLL(4) for (int k = 0; k < kRows; k++) {
      const V h = hn::MulAdd(value[k], b, hn::Mul(decay, hn::LoadU(d, from + k * state + n)));
      hn::StoreU(h, d, to + k * state + n);
      sum[k] = hn::MulAdd(h, c, sum[k]);
    }
  }
  if (whole < state) {
    const size_t m = static_cast<size_t>(state - whole);
    const V b = LoadPart(d, B + whole, m), c = LoadPart(d, C + whole, m);
    HWY_UNROLL(4) for (int k = 0; k < kRows; k++) {
      const V h = hn::MulAdd(value[k], b, hn::Mul(decay, LoadPart(d, from + k * state + whole, m)));
      StorePart(h, d, to + k * state + whole, m);
      sum[k] = hn::MulAdd(h, c, sum[k]);
    }
  }
  HWY_UNROLL(4) for (int k = 0; k < kRows; k++) y[k] = simd::LaneSum(d, sum[k]);
}

// Four rows at a time, which share B and C and hide each other's sums over lanes.
template <typename T>
HWY_ATTR void step(int64_t headdim, int64_t state, T a, T dt, const T* x, const T* B, const T* C, const T* from,
                   T* to, T* y) {
  int64_t i = 0;
  for (; i + 4 <= headdim; i += 4) {
    step_rows<4, T>(state, a, dt, x + i, B, C, from + i * state, to + i * state, y + i);
  }
  for (; i < headdim; i++) step_rows<1, T>(state, a, dt, x + i, B, C, from + i * state, to + i * state, y + i);
}

template <typename T>
ChunkLoops<T> loops() {
  return {&weigh<T>,      &weigh_vjp<T>,       &span_sums<T>,    &scale_rows<T>, &add_rows<T>,
          &row_dots<T>,   &add_column_dots<T>, &finish<T>,       &gate_vjp<T>,   &skip_vjp<T>,
          &time_steps<T>, &time_slopes<T>,     &exponentials<T>, &step<T>};
}

HWY_ATTR void fill_loops(ChunkLoops<float>& single, ChunkLoops<double>& wide) {
  single = loops<float>();
  wide = loops<double>();
}

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
