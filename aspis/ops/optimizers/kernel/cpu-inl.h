// The optimizers for one instruction set: a few operations per element of each
// stream, so bandwidth is the bound; but for Muon's products, which are in cpu.cc.

#include "aspis/ops/adamw/kernel/update-inl.h"
#include "aspis/ops/optimizers/kernel/factors.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {

template <typename T>
HWY_ATTR void sgd_segment(const UpdateArray<T>& a, int64_t first, int64_t n, const UpdateFactors<T>& f) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  const V decay = hn::Set(d, a.decay ? f.decay : T(0)), momentum = hn::Set(d, f.beta1), rate = hn::Set(d, f.rate);
  const bool nesterov = f.nesterov;
  update_segment<1, true>(a, first, n, f.gradient, f.average_decay, [&](V& p, V* s, V g) HWY_ATTR {
    const V slope = hn::MulAdd(decay, p, g);
    s[0] = hn::MulAdd(momentum, s[0], slope);
    p = hn::NegMulAdd(rate, nesterov ? hn::MulAdd(momentum, s[0], slope) : s[0], p);
  });
}

template <typename T>
HWY_ATTR void lion_segment(const UpdateArray<T>& a, int64_t first, int64_t n, const UpdateFactors<T>& f) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  const V keep = hn::Set(d, a.decay ? f.keep : T(1)), rate = hn::Set(d, f.rate);
  const V beta1 = hn::Set(d, f.beta1), rest1 = hn::Set(d, f.rest1), beta2 = hn::Set(d, f.beta2),
          rest2 = hn::Set(d, f.rest2);
  update_segment<1, true>(a, first, n, f.gradient, f.average_decay, [&](V& p, V* s, V g) HWY_ATTR {
    const V c = hn::MulAdd(beta1, s[0], hn::Mul(rest1, g));
    const V step = hn::IfThenZeroElse(hn::Eq(c, hn::Zero(d)), hn::CopySign(rate, c));
    p = hn::Sub(hn::Mul(p, keep), step);
    s[0] = hn::MulAdd(beta2, s[0], hn::Mul(rest2, g));
  });
}

// The direction of LAMB from the moments, without the ratio of the norms.
template <class D, typename T>
struct LambDirection {
  D d;
  hn::Vec<D> rate, root, eps, decay;
  HWY_ATTR LambDirection(D tag, const UpdateFactors<T>& f, bool decays)
      : d(tag),
        rate(hn::Set(d, f.inverse1)),
        root(hn::Set(d, f.root2)),
        eps(hn::Set(d, f.eps)),
        decay(hn::Set(d, decays ? f.decay : T(0))) {}
  HWY_ATTR HWY_INLINE hn::Vec<D> operator()(hn::Vec<D> p, hn::Vec<D> m, hn::Vec<D> v) const {
    const auto adam = hn::Div(hn::Mul(rate, m), hn::MulAdd(hn::Sqrt(v), root, eps));
    return hn::MulAdd(decay, p, adam);
  }
};

// Moments of LAMB; sums[0] = |p|^2, sums[1] = |r|^2 of the segment.
template <typename T>
HWY_ATTR void lamb_moments(const UpdateArray<T>& a, int64_t first, int64_t n, const UpdateFactors<T>& f,
                           double* sums) {
  constexpr int64_t kPart = 64;  // vectors that are summed in T
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const V beta1 = hn::Set(d, f.beta1), rest1 = hn::Set(d, f.rest1), beta2 = hn::Set(d, f.beta2),
          rest2 = hn::Set(d, f.rest2), scale = hn::Set(d, f.gradient);
  const LambDirection<decltype(d), T> direction(d, f, a.decay);
  sums[0] = sums[1] = 0;
  V pp = hn::Zero(d), rr = hn::Zero(d);
  const auto update = [&](V p, V& m, V& v, V g) HWY_ATTR {
    g = hn::Mul(scale, g);
    m = hn::MulAdd(beta1, m, hn::Mul(rest1, g));
    v = hn::MulAdd(beta2, v, hn::Mul(rest2, hn::Mul(g, g)));
    const V r = direction(p, m, v);
    pp = hn::MulAdd(p, p, pp);
    rr = hn::MulAdd(r, r, rr);
  };
  int64_t i = first;
  const int64_t last = first + n;
  while (i < last) {
    const int64_t part = HWY_MIN(last, i + kPart * lanes);
    pp = rr = hn::Zero(d);
    for (; i + lanes <= part; i += lanes) {
      V m = hn::LoadU(d, a.in[1] + i), v = hn::LoadU(d, a.in[2] + i);
      update(hn::LoadU(d, a.in[0] + i), m, v, load_gradient(d, a, i));
      hn::StoreU(m, d, a.out[1] + i);
      hn::StoreU(v, d, a.out[2] + i);
    }
    if (i < part) {
      const auto rest = static_cast<size_t>(part - i);
      V m = simd::LoadTail(d, a.in[1] + i, rest), v = simd::LoadTail(d, a.in[2] + i, rest);
      update(simd::LoadTail(d, a.in[0] + i, rest), m, v, load_gradient_tail(d, a, i, rest));
      simd::StoreTail(m, d, a.out[1] + i, rest);
      simd::StoreTail(v, d, a.out[2] + i, rest);
      i = part;
    }
    sums[0] += static_cast<double>(simd::LaneSum(d, pp));
    sums[1] += static_cast<double>(simd::LaneSum(d, rr));
  }
}

// p = p - rate r with the moments that lamb_moments left; `a.in` has them.
template <typename T>
HWY_ATTR void lamb_segment(const UpdateArray<T>& a, int64_t first, int64_t n, const UpdateFactors<T>& f, T rate) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  const LambDirection<decltype(d), T> direction(d, f, a.decay);
  const V step = hn::Set(d, rate);
  update_segment<2, false>(a, first, n, T(0), f.average_decay,
                           [&](V& p, V* s, V) HWY_ATTR { p = hn::NegMulAdd(step, direction(p, s[0], s[1]), p); });
}

// m and u of Muon for a segment; returns |u|^2.
template <typename T>
HWY_ATTR double muon_moments(const UpdateArray<T>& a, int64_t first, int64_t n, const UpdateFactors<T>& f, T* u) {
  constexpr int64_t kPart = 64;
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const V momentum = hn::Set(d, f.beta1), rest1 = hn::Set(d, f.rest1), scale = hn::Set(d, f.gradient);
  double total = 0;
  V sum = hn::Zero(d);
  const auto update = [&](V& m, V g) HWY_ATTR {
    g = hn::Mul(rest1, hn::Mul(scale, g));
    m = hn::MulAdd(momentum, m, g);
    const V x = f.nesterov ? hn::MulAdd(momentum, m, g) : m;
    sum = hn::MulAdd(x, x, sum);
    return x;
  };
  int64_t i = first;
  const int64_t last = first + n;
  while (i < last) {
    const int64_t part = HWY_MIN(last, i + kPart * lanes);
    sum = hn::Zero(d);
    for (; i + lanes <= part; i += lanes) {
      V m = hn::LoadU(d, a.in[1] + i);
      const V x = update(m, load_gradient(d, a, i));
      hn::StoreU(m, d, a.out[1] + i);
      hn::StoreU(x, d, u + i);
    }
    if (i < part) {
      const auto rest = static_cast<size_t>(part - i);
      V m = simd::LoadTail(d, a.in[1] + i, rest);
      const V x = update(m, load_gradient_tail(d, a, i, rest));
      simd::StoreTail(m, d, a.out[1] + i, rest);
      simd::StoreTail(x, d, u + i, rest);
      i = part;
    }
    total += static_cast<double>(simd::LaneSum(d, sum));
  }
  return total;
}

// p = p keep - rate x, with x in the place of the gradient.
template <typename T>
HWY_ATTR void muon_segment(const UpdateArray<T>& a, int64_t first, int64_t n, const UpdateFactors<T>& f, T rate) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  const V keep = hn::Set(d, a.decay ? f.keep : T(1));
  update_segment<0, true>(a, first, n, rate, f.average_decay,
                          [&](V& p, V*, V x) HWY_ATTR { p = hn::Sub(hn::Mul(p, keep), x); });
}

// y = c y + b x, and a more on the diagonal; all {n, n}.
template <typename T>
HWY_ATTR void muon_polynomial(const T* x, T* y, int64_t n, int64_t first_row, int64_t last_row, T a, T b, T c) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto vb = hn::Set(d, b), vc = hn::Set(d, c);
  for (int64_t r = first_row; r < last_row; r++) {
    const T* from = x + r * n;
    T* to = y + r * n;
    int64_t j = 0;
    for (; j + lanes <= n; j += lanes) {
      hn::StoreU(hn::MulAdd(vc, hn::LoadU(d, to + j), hn::Mul(vb, hn::LoadU(d, from + j))), d, to + j);
    }
    if (j < n) {
      const auto rest = static_cast<size_t>(n - j);
      const auto v =
          hn::MulAdd(vc, simd::LoadTail(d, to + j, rest), hn::Mul(vb, simd::LoadTail(d, from + j, rest)));
      simd::StoreTail(v, d, to + j, rest);
    }
    to[r] += a;
  }
}

#define ASPIS_OPTIMIZER_INSTANCE(T, suffix)                                                                   \
  HWY_ATTR void sgd_##suffix(const UpdateArray<T>& a, int64_t first, int64_t n, const UpdateFactors<T>& f) {  \
    sgd_segment(a, first, n, f);                                                                              \
  }                                                                                                           \
  HWY_ATTR void lion_##suffix(const UpdateArray<T>& a, int64_t first, int64_t n, const UpdateFactors<T>& f) { \
    lion_segment(a, first, n, f);                                                                             \
  }                                                                                                           \
  HWY_ATTR void lamb_moments_##suffix(const UpdateArray<T>& a, int64_t first, int64_t n,                      \
                                      const UpdateFactors<T>& f, double* sums) {                              \
    lamb_moments(a, first, n, f, sums);                                                                       \
  }                                                                                                           \
  HWY_ATTR void lamb_##suffix(const UpdateArray<T>& a, int64_t first, int64_t n, const UpdateFactors<T>& f,   \
                              T rate) {                                                                       \
    lamb_segment(a, first, n, f, rate);                                                                       \
  }                                                                                                           \
  HWY_ATTR double muon_moments_##suffix(const UpdateArray<T>& a, int64_t first, int64_t n,                    \
                                        const UpdateFactors<T>& f, T* u) {                                    \
    return muon_moments(a, first, n, f, u);                                                                   \
  }                                                                                                           \
  HWY_ATTR void muon_##suffix(const UpdateArray<T>& a, int64_t first, int64_t n, const UpdateFactors<T>& f,   \
                              T rate) {                                                                       \
    muon_segment(a, first, n, f, rate);                                                                       \
  }                                                                                                           \
  HWY_ATTR void muon_polynomial_##suffix(const T* x, T* y, int64_t n, int64_t first, int64_t last, T a, T b,  \
                                         T c) {                                                               \
    muon_polynomial(x, y, n, first, last, a, b, c);                                                           \
  }
ASPIS_OPTIMIZER_INSTANCE(float, f32)
ASPIS_OPTIMIZER_INSTANCE(double, f64)
#undef ASPIS_OPTIMIZER_INSTANCE

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
