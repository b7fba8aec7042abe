// Cross-entropy for one instruction set: three passes over a row that stays in
// cache (maximum; sum of exponentials with the sums over the target; gradient).
// m and log sum exp(x - m) are kept apart for the gradient: their sum loses the
// logarithm for huge logits.

#include <cmath>
#include <limits>

#include "aspis/simd/storage-inl.h"
#include "aspis/simd/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

template <typename S, typename T = Arithmetic<S>>
HWY_ATTR T row_max(const S* x, int64_t n) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const T lowest = -std::numeric_limits<T>::infinity();
  auto m = hn::Set(d, lowest);
  int64_t c = 0;
  for (; c + lanes <= n; c += lanes) m = hn::Max(m, simd::LoadAny(d, x + c));
  if (c < n) {
    const size_t rest = static_cast<size_t>(n - c);
    m = hn::Max(m, hn::IfThenElse(hn::FirstN(d, rest), simd::LoadAnyTail(d, x + c, rest), hn::Set(d, lowest)));
  }
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

template <typename S, typename T = Arithmetic<S>>
HWY_ATTR RowSums<T> row_sums(const CrossEntropyParams<S>& p, const S* x, const S* t, T maximum) {
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
    simd::PrefetchAny(x + p.logits_stride + c);  // the next row, while exponentials are computed
    add(hn::Sub(simd::LoadAny(d, x + c), m), t ? simd::LoadAny(d, t + c) : zero);
  }
  if (c < p.classes) {
    const size_t n = static_cast<size_t>(p.classes - c);
    const auto inside = hn::FirstN(d, n);
    const V shifted = hn::Sub(simd::LoadAnyTail(d, x + c, n), m);
    e = hn::Add(e, hn::IfThenElseZero(inside, simd::ExpNonPositive(d, hn::IfThenElseZero(inside, shifted))));
    if (smooth) u = hn::Add(u, hn::IfThenElseZero(inside, shifted));
    if (t) {
      const V target = simd::LoadAnyTail(d, t + c, n);
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

template <typename S, typename T = Arithmetic<S>>
HWY_ATTR void cross_entropy_rows(const CrossEntropyParams<S>& p, int64_t first, int64_t last) {
  const T keep = static_cast<T>(1 - p.smoothing);
  const T spread = static_cast<T>(p.smoothing / static_cast<double>(p.classes));
  for (int64_t r = first; r < last; r++) {
    const S* x = p.logits + r * p.logits_stride;
    const S* t = p.soft ? p.soft + r * p.soft_stride : nullptr;
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
      loss = log_sum - keep * (load_value(x[p.labels[r]]) - m);
    }
    if (p.smoothing > 0) loss -= spread * sums.shifted;
    p.row_loss[r] = loss;
  }
}

// `scale` multiplies dloss[r] (kNone) or is the whole factor of a row.
template <typename S, typename T = Arithmetic<S>>
HWY_ATTR void cross_entropy_vjp_rows(const CrossEntropyVjpParams<S>& v, T scale, int64_t first, int64_t last) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  const CrossEntropyParams<S>& p = v.forward;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d)), n = p.classes;
  const T keep = static_cast<T>(1 - p.smoothing);
  const T spread = static_cast<T>(p.smoothing / static_cast<double>(n));
  for (int64_t r = first; r < last; r++) {
    const S* x = p.logits + r * p.logits_stride;
    const S* t = p.soft ? p.soft + r * p.soft_stride : nullptr;
    S* dx = v.dlogits ? v.dlogits + r * n : nullptr;
    S* dt = v.dsoft ? v.dsoft + r * n : nullptr;
    T g = p.reduction == LossReduction::kNone ? v.dloss[r] : scale;
    T total = 1;
    if (t) {
      T sum = 0;
      V a = hn::Zero(d);
      int64_t c = 0;
      for (; c + lanes <= n; c += lanes) a = hn::Add(a, simd::LoadAny(d, t + c));
      if (c < n) a = hn::Add(a, simd::LoadAnyTail(d, t + c, static_cast<size_t>(n - c)));
      sum = simd::LaneSum(d, a);
      total = keep * sum + static_cast<T>(p.smoothing);
    } else if (p.labels[r] == p.ignore_index) {
      for (int64_t c = 0; dx && c < n; c++) store_value(dx[c], T(0));
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
      const V shifted = hn::Sub(full ? simd::LoadAny(d, x + c) : simd::LoadAnyTail(d, x + c, count), m);
      const V log_p = hn::Sub(shifted, log_sum);
      if (dx) {
        V q = q0;
        if (t) q = hn::MulAdd(part, full ? simd::LoadAny(d, t + c) : simd::LoadAnyTail(d, t + c, count), q0);
        const V y = hn::Mul(scaled, hn::MulSub(sum_q, simd::Exp(d, log_p), q));
        full ? simd::StoreAny(y, d, dx + c) : simd::StoreAnyTail(y, d, dx + c, count);
      }
      if (dt) {
        const V y = hn::Mul(minus, log_p);
        full ? simd::StoreAny(y, d, dt + c) : simd::StoreAnyTail(y, d, dt + c, count);
      }
    }
    if (dx && !t && p.labels[r] >= 0 && p.labels[r] < n) {
      const int64_t c = p.labels[r];
      const T probability = std::exp((load_value(x[c]) - p.statistics[2 * r]) - p.statistics[2 * r + 1]);
      store_value(dx[c], g * (probability - spread - keep));
    }
  }
}

HWY_ATTR void cross_entropy_f32(const CrossEntropyParams<float>& p, int64_t first, int64_t last) {
  cross_entropy_rows(p, first, last);
}
HWY_ATTR void cross_entropy_f64(const CrossEntropyParams<double>& p, int64_t first, int64_t last) {
  cross_entropy_rows(p, first, last);
}
HWY_ATTR void cross_entropy_bf16(const CrossEntropyParams<Bf16>& p, int64_t first, int64_t last) {
  cross_entropy_rows(p, first, last);
}
HWY_ATTR void cross_entropy_vjp_bf16(const CrossEntropyVjpParams<Bf16>& p, float scale, int64_t first,
                                     int64_t last) {
  cross_entropy_vjp_rows(p, scale, first, last);
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
