// The loops of gradient.h for one instruction set. Included once per target by gradient.cc.

#include <numbers>

#include "aspis/simd/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

template <typename T>
HWY_ATTR void transpose_block(int64_t rows, int64_t columns, const T* from, int64_t from_stride, T* to,
                              int64_t to_stride, int64_t padded) {
  int64_t r = 0;
  if constexpr (sizeof(T) == 4 && HWY_MAX_BYTES >= 16) {
    const hn::CappedTag<T, 4> d;
    for (; hn::Lanes(d) == 4 && r + 4 <= rows; r += 4) {
      const T* const row = from + r * from_stride;
      int64_t c = 0;
      for (; c + 4 <= columns; c += 4) {
        const auto a0 = hn::LoadU(d, row + c), a1 = hn::LoadU(d, row + from_stride + c);
        const auto a2 = hn::LoadU(d, row + 2 * from_stride + c), a3 = hn::LoadU(d, row + 3 * from_stride + c);
        const auto low02 = hn::InterleaveLower(d, a0, a2), low13 = hn::InterleaveLower(d, a1, a3);
        const auto high02 = hn::InterleaveUpper(d, a0, a2), high13 = hn::InterleaveUpper(d, a1, a3);
        T* const q = to + c * to_stride + r;
        hn::StoreU(hn::InterleaveLower(d, low02, low13), d, q);
        hn::StoreU(hn::InterleaveUpper(d, low02, low13), d, q + to_stride);
        hn::StoreU(hn::InterleaveLower(d, high02, high13), d, q + 2 * to_stride);
        hn::StoreU(hn::InterleaveUpper(d, high02, high13), d, q + 3 * to_stride);
      }
      for (; c < columns; c++) {
        for (int64_t i = 0; i < 4; i++) to[c * to_stride + r + i] = row[i * from_stride + c];
      }
    }
  }
  for (; r < rows; r++) {
    for (int64_t c = 0; c < columns; c++) to[c * to_stride + r] = from[r * from_stride + c];
  }
  for (int64_t c = 0; rows < padded && c < columns; c++) {
    for (int64_t i = rows; i < padded; i++) to[c * to_stride + i] = T(0);
  }
}

template <typename T>
HWY_ATTR void advance_rows(int64_t n, int64_t angles, int64_t rank, const T* dt, int64_t dt_stride, const T* turns,
                           T* phi, T* rows) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto round = hn::Set(d, static_cast<T>(2 * std::numbers::pi)),
             inverse = hn::Set(d, static_cast<T>(0.5 / std::numbers::pi));
  for (int64_t t = 0; t < n; t++) {
    const auto step = hn::Set(d, dt[t * dt_stride]);
    for (int64_t i = 0; i < angles; i += lanes) {
      const size_t m = static_cast<size_t>(HWY_MIN(lanes, angles - i));
      const auto v = hn::MulAdd(step, simd::LoadTail(d, turns + t * angles + i, m), simd::LoadTail(d, phi + i, m));
      const auto next = hn::NegMulAdd(round, hn::Floor(hn::Mul(v, inverse)), v);
      simd::StoreTail(next, d, phi + i, m);
      if (!rows) continue;
      for (int64_t r = 0; r < rank; r++) simd::StoreTail(next, d, rows + (t * rank + r) * angles + i, m);
    }
  }
}

// Calls pair(angle, row a, row b) for every pair that turns, and row(n) for every other row.
template <typename T, typename Pair, typename Row>
HWY_ATTR HWY_INLINE void for_rows(const TurnedChunk<T>& c, const Pair& pair, const Row& row) {
  const int64_t half = c.state / 2;
  if (c.adjacent) {
    for (int64_t i = 0; i < c.angles; i++) pair(i, 2 * i, 2 * i + 1);
    for (int64_t n = 2 * c.angles; n < c.state; n++) row(n);
    return;
  }
  for (int64_t i = 0; i < c.angles; i++) pair(i, i, i + half);
  for (int64_t n = c.angles; n < c.state; n++) {
    if (n < half || n >= half + c.angles) row(n);
  }
}

template <typename T>
HWY_ATTR void make_turned(const TurnedChunk<T>& c) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d)), stride = c.stride;
  const auto biased = [&](const T* x, const T* bias, int64_t n, int64_t t, int64_t at) HWY_ATTR {
    const auto v = hn::LoadU(d, x + n * stride + t);
    return bias ? hn::Add(v, hn::LoadU(d, bias + n * c.period + at)) : v;
  };
  const auto pair = [&](int64_t i, int64_t a, int64_t b) HWY_ATTR {
    for (int64_t t = 0, at = 0; t < stride; t += lanes) {
      const auto cosine = hn::LoadU(d, c.cosine + i * stride + t), sine = hn::LoadU(d, c.sine + i * stride + t);
      const auto ka = biased(c.B, c.B_bias, a, t, at), kb = biased(c.B, c.B_bias, b, t, at);
      const auto qa = biased(c.C, c.C_bias, a, t, at), qb = biased(c.C, c.C_bias, b, t, at);
      hn::StoreU(hn::NegMulAdd(kb, sine, hn::Mul(ka, cosine)), d, c.k + a * stride + t);
      hn::StoreU(hn::MulAdd(ka, sine, hn::Mul(kb, cosine)), d, c.k + b * stride + t);
      hn::StoreU(hn::NegMulAdd(qb, sine, hn::Mul(qa, cosine)), d, c.q + a * stride + t);
      hn::StoreU(hn::MulAdd(qa, sine, hn::Mul(qb, cosine)), d, c.q + b * stride + t);
      at = at + lanes == c.period ? 0 : at + lanes;
    }
  };
  const auto row = [&](int64_t n) HWY_ATTR {
    for (int64_t t = 0, at = 0; t < stride; t += lanes) {
      hn::StoreU(biased(c.B, c.B_bias, n, t, at), d, c.k + n * stride + t);
      hn::StoreU(biased(c.C, c.C_bias, n, t, at), d, c.q + n * stride + t);
      at = at + lanes == c.period ? 0 : at + lanes;
    }
  };
  for_rows(c, pair, row);
}

template <typename T>
HWY_ATTR void turn_back(const TurnedChunk<T>& c) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d)), stride = c.stride;
  const auto give = [&](V v, T* sum, T* bias, int64_t n, int64_t t, int64_t at) HWY_ATTR {
    T* const to = sum + n * stride + t;
    hn::StoreU(c.fresh ? v : hn::Add(v, hn::LoadU(d, to)), d, to);
    if (bias) {
      T* const b = bias + n * c.period + at;
      hn::StoreU(hn::Add(v, hn::LoadU(d, b)), d, b);
    }
  };
  const auto pair = [&](int64_t i, int64_t a, int64_t b) HWY_ATTR {
    for (int64_t t = 0, at = 0; t < stride; t += lanes) {
      const auto cosine = hn::LoadU(d, c.cosine + i * stride + t), sine = hn::LoadU(d, c.sine + i * stride + t);
      const int64_t ia = a * stride + t, ib = b * stride + t;
      V da = hn::LoadU(d, c.dk + ia), db = hn::LoadU(d, c.dk + ib);
      V dphi = hn::NegMulAdd(hn::LoadU(d, c.k + ib), da, hn::Mul(hn::LoadU(d, c.k + ia), db));
      give(hn::MulAdd(db, sine, hn::Mul(da, cosine)), c.dB, c.dB_bias, a, t, at);
      give(hn::NegMulAdd(da, sine, hn::Mul(db, cosine)), c.dB, c.dB_bias, b, t, at);
      da = hn::LoadU(d, c.dq + ia), db = hn::LoadU(d, c.dq + ib);
      dphi = hn::Add(dphi, hn::NegMulAdd(hn::LoadU(d, c.q + ib), da, hn::Mul(hn::LoadU(d, c.q + ia), db)));
      give(hn::MulAdd(db, sine, hn::Mul(da, cosine)), c.dC, c.dC_bias, a, t, at);
      give(hn::NegMulAdd(da, sine, hn::Mul(db, cosine)), c.dC, c.dC_bias, b, t, at);
      hn::StoreU(dphi, d, c.dphi + i * stride + t);
      at = at + lanes == c.period ? 0 : at + lanes;
    }
  };
  const auto row = [&](int64_t n) HWY_ATTR {
    for (int64_t t = 0, at = 0; t < stride; t += lanes) {
      give(hn::LoadU(d, c.dk + n * stride + t), c.dB, c.dB_bias, n, t, at);
      give(hn::LoadU(d, c.dq + n * stride + t), c.dC, c.dC_bias, n, t, at);
      at = at + lanes == c.period ? 0 : at + lanes;
    }
  };
  for_rows(c, pair, row);
}

template <typename T>
HWY_ATTR void weigh_square(const WeighedSquare<T>& w) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d)), n = w.rows;
  for (int64_t t = 0; t < w.stride; t += lanes) hn::StoreU(hn::Zero(d), d, w.column + t);
  w.dlog[0] = 0;
  for (int64_t s = 0; s < n; s++) {
    const int64_t first = s / w.rank * w.rank, next = first + w.rank;  // rows of the token
    const auto sum_s = hn::Set(d, w.sums[s]), weight = hn::Set(d, w.w[s]), own_weight = hn::Set(d, w.g[s]);
    const auto token = hn::Set(d, w.token[s]);
    auto dw = hn::Zero(d), dg = dw, dlog = dw;
    int64_t t = s / w.block * w.block;
    for (; t + lanes <= first; t += lanes) {
      hn::StoreU(hn::Zero(d), d, w.scores + s * w.stride + t);
      hn::StoreU(hn::Zero(d), d, w.dscores + s * w.stride + t);
    }
    for (; t < n; t += lanes) {
      T *const score_at = w.scores + s * w.stride + t, *const grad_at = w.dscores + s * w.stride + t;
      const auto difference = hn::Sub(hn::LoadU(d, w.sums + t), sum_s);
      if (t >= next && t + lanes <= n) {
        // A choice where decay is gone: 0 times an infinite score would be NaN.
        const auto e = simd::Exp(d, difference), ew = hn::Mul(e, weight);
        const auto gone = hn::Eq(e, hn::Zero(d));
        const auto score = hn::IfThenZeroElse(gone, hn::LoadU(d, score_at));
        const auto grad = hn::IfThenZeroElse(gone, hn::LoadU(d, grad_at));
        const auto both = hn::Mul(score, grad);
        hn::StoreU(hn::Mul(score, ew), d, score_at);
        hn::StoreU(hn::Mul(grad, ew), d, grad_at);
        dw = hn::MulAdd(both, e, dw);
        const auto column = hn::MulAdd(both, ew, hn::LoadU(d, w.column + t));
        hn::StoreU(column, d, w.column + t);
        dlog = hn::Add(dlog, column);
        continue;
      }
      const auto there = hn::FirstN(d, static_cast<size_t>(n - t));
      const auto tokens = hn::LoadU(d, w.token + t);
      const auto later = hn::And(there, hn::Gt(tokens, token)), own = hn::And(there, hn::Eq(tokens, token));
      const auto e = hn::IfThenElseZero(later, simd::Exp(d, hn::IfThenElseZero(later, difference)));
      const auto ew = hn::Mul(e, weight), factor = hn::IfThenElse(own, own_weight, ew);
      const auto gone = hn::Eq(hn::IfThenElse(own, hn::Set(d, T(1)), e), hn::Zero(d));
      const auto score = hn::IfThenZeroElse(gone, hn::LoadU(d, score_at));
      const auto grad = hn::IfThenZeroElse(gone, hn::LoadU(d, grad_at));
      const auto both = hn::Mul(score, grad);
      hn::StoreU(hn::Mul(score, factor), d, score_at);
      hn::StoreU(hn::Mul(grad, factor), d, grad_at);
      dg = hn::Add(dg, hn::IfThenElseZero(own, both));
      const auto passed = hn::IfThenElseZero(later, both);
      dw = hn::MulAdd(passed, e, dw);
      const auto column = hn::MulAdd(passed, ew, hn::LoadU(d, w.column + t));
      hn::StoreU(column, d, w.column + t);
      dlog = hn::Add(dlog, hn::IfThenElseZero(later, column));
    }
    w.dw[s] = simd::LaneSum(d, dw);
    w.dg[s] = simd::LaneSum(d, dg);
    if (s + 1 == next) w.dlog[s / w.rank + 1] = simd::LaneSum(d, dlog);
  }
}

template <typename T>
HWY_ATTR void scale_columns(int64_t n, int64_t stride, const T* scale, T* x, const T* y, T* dots) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t t = 0; t < stride; t += lanes) {
    const auto by = hn::LoadU(d, scale + t);
    auto s0 = hn::Zero(d), s1 = s0;
    const auto row = [&](int64_t i) HWY_ATTR {
      const auto v = hn::Mul(by, hn::LoadU(d, x + i * stride + t));
      hn::StoreU(v, d, x + i * stride + t);
      return hn::Mul(v, hn::LoadU(d, y + i * stride + t));
    };
    int64_t i = 0;
    for (; i + 2 <= n; i += 2) {
      s0 = hn::Add(s0, row(i));
      s1 = hn::Add(s1, row(i + 1));
    }
    if (i < n) s0 = hn::Add(s0, row(i));
    hn::StoreU(hn::Add(s0, s1), d, dots + t);
  }
}

template <typename T>
HWY_ATTR T scale_and_dot(int64_t n, T scale, T* x, const T* y) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto by = hn::Set(d, scale);
  auto s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
  const auto one = [&](int64_t i) HWY_ATTR {
    const auto v = hn::LoadU(d, x + i);
    hn::StoreU(hn::Mul(by, v), d, x + i);
    return v;
  };
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes) {
    s0 = hn::MulAdd(one(i), hn::LoadU(d, y + i), s0);
    s1 = hn::MulAdd(one(i + lanes), hn::LoadU(d, y + i + lanes), s1);
    s2 = hn::MulAdd(one(i + 2 * lanes), hn::LoadU(d, y + i + 2 * lanes), s2);
    s3 = hn::MulAdd(one(i + 3 * lanes), hn::LoadU(d, y + i + 3 * lanes), s3);
  }
  T sum = simd::LaneSum(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3)));
  for (; i < n; i++) {
    sum += x[i] * y[i];
    x[i] *= scale;
  }
  return sum;
}

template <typename T>
HWY_ATTR void phase_back(int64_t n, int64_t angles, int64_t rank, const T* dphi, const T* turns, const T* dt,
                         T* ddt, int64_t dt_stride, bool fresh, T* later, T* dangle) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t t = n - 1; t >= 0; t--) {
    const auto step = hn::Set(d, dt[t * dt_stride]);
    auto dot = hn::Zero(d);
    for (int64_t i = 0; i < angles; i += lanes) {
      const size_t m = static_cast<size_t>(HWY_MIN(lanes, angles - i));
      auto sum = simd::LoadTail(d, later + i, m);
      for (int64_t r = 0; r < rank; r++)
        sum = hn::Add(sum, simd::LoadTail(d, dphi + (t * rank + r) * angles + i, m));
      simd::StoreTail(sum, d, later + i, m);
      dot = hn::MulAdd(sum, simd::LoadTail(d, turns + t * angles + i, m), dot);
      T* const to = dangle + t * angles + i;
      const auto before = fresh ? hn::Zero(d) : simd::LoadTail(d, to, m);
      simd::StoreTail(hn::MulAdd(step, sum, before), d, to, m);
    }
    ddt[t * dt_stride] = simd::LaneSum(d, dot);
  }
}

template <typename T>
GradientLoops<T> gradient_table() {
  return {&transpose_block<T>, &advance_rows<T>,  &make_turned<T>,   &turn_back<T>,
          &weigh_square<T>,    &scale_columns<T>, &scale_and_dot<T>, &phase_back<T>};
}

HWY_ATTR void fill_gradient(GradientLoops<float>& single, GradientLoops<double>& wide) {
  single = gradient_table<float>();
  wide = gradient_table<double>();
}

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
