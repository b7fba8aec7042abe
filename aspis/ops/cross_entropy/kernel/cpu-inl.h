// Cross-entropy for one instruction set: three passes over a row that stays in
// cache (maximum; sum of exponentials with the sums over the target; gradient).
// m and log sum exp(x - m) are kept apart for the gradient: their sum loses the
// logarithm for huge logits.

#include <cmath>
#include <limits>

#include "aspis/simd/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

template <typename T>
HWY_ATTR T row_max(const T* x, int64_t n) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const T lowest = -std::numeric_limits<T>::infinity();
  auto m = hn::Set(d, lowest);
  int64_t c = 0;
  for (; c + lanes <= n; c += lanes) m = hn::Max(m, hn::LoadU(d, x + c));
  if (c < n) m = hn::Max(m, simd::LoadTailOr(d, x + c, static_cast<size_t>(n - c), lowest));
  return simd::LaneMax(d, m);
}

// What the loss needs of a row besides its maximum.
template <typename T>
struct RowSums {
  T exponentials = 0;  // sum exp(x - m)
  T shifted = 0;       // sum (x - m), only with smoothing
  T weighted = 0;      // sum t (x - m), soft targets
  T target = 0;        // sum t
};

template <typename T>
HWY_ATTR RowSums<T> row_sums(const CrossEntropyParams<T>& p, const T* x, const T* t, T maximum) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const bool smooth = p.smoothing > 0;
  const V m = hn::Set(d, maximum), zero = hn::Zero(d);
  V e = zero, u = zero, w = zero, a = zero;
  const auto add = [&](V shifted, V target) HWY_ATTR {
    e = hn::Add(e, simd::ExpNonPositive(d, shifted));
    if (smooth) u = hn::Add(u, shifted);
    if (t) {
      // A class of weight 0 may have a logit of -inf.
      const auto used = hn::IfThenElse(hn::Eq(target, zero), zero, shifted);
      w = hn::MulAdd(target, used, w);
      a = hn::Add(a, target);
    }
  };
  int64_t c = 0;
  for (; c + lanes <= p.classes; c += lanes) {
    add(hn::Sub(hn::LoadU(d, x + c), m), t ? hn::LoadU(d, t + c) : zero);
  }
  if (c < p.classes) {
    const size_t n = static_cast<size_t>(p.classes - c);
    const auto inside = hn::FirstN(d, n);
    const V shifted = hn::Sub(simd::LoadTail(d, x + c, n), m);
    e = hn::Add(e, hn::IfThenElseZero(inside, simd::ExpNonPositive(d, hn::IfThenElseZero(inside, shifted))));
    if (smooth) u = hn::Add(u, hn::IfThenElseZero(inside, shifted));
    if (t) {
      const V target = simd::LoadTail(d, t + c, n);
      const auto used = hn::IfThenElse(hn::Eq(target, zero), zero, hn::IfThenElseZero(inside, shifted));
      w = hn::MulAdd(target, used, w);
      a = hn::Add(a, target);
    }
  }
  RowSums<T> sums{simd::LaneSum(d, e), 0, 0, 0};
  if (smooth) sums.shifted = simd::LaneSum(d, u);
  if (t) {
    sums.weighted = simd::LaneSum(d, w);
    sums.target = simd::LaneSum(d, a);
  }
  return sums;
}

template <typename T>
HWY_ATTR void cross_entropy_rows(const CrossEntropyParams<T>& p, int64_t first, int64_t last) {
  const T keep = static_cast<T>(1 - p.smoothing);
  const T spread = static_cast<T>(p.smoothing / static_cast<double>(p.classes));
  for (int64_t r = first; r < last; r++) {
    const T* x = p.logits + r * p.logits_stride;
    const T* t = p.soft ? p.soft + r * p.soft_stride : nullptr;
    const T m = row_max(x, p.classes);
    const RowSums<T> sums = row_sums(p, x, t, m);
    const T log_sum = std::log(sums.exponentials);
    p.statistics[2 * r] = m;
    p.statistics[2 * r + 1] = log_sum;
    T loss;
    if (t) {
      // sum(q) = keep sum(t) + smoothing
      loss = (keep * sums.target + static_cast<T>(p.smoothing)) * log_sum - keep * sums.weighted;
    } else if (p.labels[r] == p.ignore_index) {
      p.row_loss[r] = 0;
      continue;
    } else if (p.labels[r] < 0 || p.labels[r] >= p.classes) {
      p.row_loss[r] = std::numeric_limits<T>::quiet_NaN();
      continue;
    } else {
      loss = log_sum - keep * (x[p.labels[r]] - m);
    }
    if (p.smoothing > 0) loss -= spread * sums.shifted;
    p.row_loss[r] = loss;
  }
}

// `scale` multiplies dloss[r] (kNone) or is the whole factor of a row.
template <typename T>
HWY_ATTR void cross_entropy_vjp_rows(const CrossEntropyVjpParams<T>& v, T scale, int64_t first, int64_t last) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  const CrossEntropyParams<T>& p = v.forward;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d)), n = p.classes;
  const T keep = static_cast<T>(1 - p.smoothing);
  const T spread = static_cast<T>(p.smoothing / static_cast<double>(n));
  for (int64_t r = first; r < last; r++) {
    const T* x = p.logits + r * p.logits_stride;
    const T* t = p.soft ? p.soft + r * p.soft_stride : nullptr;
    T* dx = v.dlogits ? v.dlogits + r * n : nullptr;
    T* dt = v.dsoft ? v.dsoft + r * n : nullptr;
    T g = p.reduction == LossReduction::kNone ? v.dloss[r] : scale;
    T total = 1;
    if (t) {
      T sum = 0;
      V a = hn::Zero(d);
      int64_t c = 0;
      for (; c + lanes <= n; c += lanes) a = hn::Add(a, hn::LoadU(d, t + c));
      if (c < n) a = hn::Add(a, simd::LoadTail(d, t + c, static_cast<size_t>(n - c)));
      sum = simd::LaneSum(d, a);
      total = keep * sum + static_cast<T>(p.smoothing);
    } else if (p.labels[r] == p.ignore_index) {
      for (int64_t c = 0; dx && c < n; c++) dx[c] = 0;
      continue;
    } else if (p.labels[r] < 0 || p.labels[r] >= n) {
      g = std::numeric_limits<T>::quiet_NaN();
    }
    const V m = hn::Set(d, p.statistics[2 * r]), log_sum = hn::Set(d, p.statistics[2 * r + 1]);
    const V scaled = hn::Set(d, g), sum_q = hn::Set(d, total), q0 = hn::Set(d, spread), part = hn::Set(d, keep);
    const V minus = hn::Set(d, -g * keep);
    for (int64_t c = 0; c < n; c += lanes) {
      const size_t count = static_cast<size_t>(HWY_MIN(lanes, n - c));
      const bool full = count == static_cast<size_t>(lanes);
      const V shifted = hn::Sub(full ? hn::LoadU(d, x + c) : simd::LoadTail(d, x + c, count), m);
      const V log_p = hn::Sub(shifted, log_sum);
      if (dx) {
        V q = q0;
        if (t) q = hn::MulAdd(part, full ? hn::LoadU(d, t + c) : simd::LoadTail(d, t + c, count), q0);
        const V y = hn::Mul(scaled, hn::MulSub(sum_q, simd::Exp(d, log_p), q));
        full ? hn::StoreU(y, d, dx + c) : simd::StoreTail(y, d, dx + c, count);
      }
      if (dt) {
        const V y = hn::Mul(minus, log_p);
        full ? hn::StoreU(y, d, dt + c) : simd::StoreTail(y, d, dt + c, count);
      }
    }
    if (dx && !t && p.labels[r] >= 0 && p.labels[r] < n) {
      const int64_t c = p.labels[r];
      const T probability = std::exp((x[c] - p.statistics[2 * r]) - p.statistics[2 * r + 1]);
      dx[c] = g * (probability - spread - keep);
    }
  }
}

HWY_ATTR void cross_entropy_f32(const CrossEntropyParams<float>& p, int64_t first, int64_t last) {
  cross_entropy_rows(p, first, last);
}
HWY_ATTR void cross_entropy_f64(const CrossEntropyParams<double>& p, int64_t first, int64_t last) {
  cross_entropy_rows(p, first, last);
}
HWY_ATTR void cross_entropy_vjp_f32(const CrossEntropyVjpParams<float>& p, float scale, int64_t first,
                                    int64_t last) {
  cross_entropy_vjp_rows(p, scale, first, last);
}
HWY_ATTR void cross_entropy_vjp_f64(const CrossEntropyVjpParams<double>& p, double scale, int64_t first,
                                    int64_t last) {
  cross_entropy_vjp_rows(p, scale, first, last);
}

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
