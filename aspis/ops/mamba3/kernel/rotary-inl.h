// The loops of rotary.h for one instruction set. Included once per target by rotary.cc.

#include <numbers>
#include <type_traits>

#include "aspis/simd/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

// Sine and cosine of |x| <= 2 pi: the nearest multiple of pi / 2 is taken off in
// three parts, then polynomials on |r| <= pi / 4 (coefficients of the Cephes
// library, S. Moshier). A NaN stays one.
template <class D, class V = hn::Vec<D>>
HWY_ATTR HWY_INLINE void sine_cosine(D d, V x, V& sine, V& cosine) {
  using T = hn::TFromD<D>;
  const auto set = [&](double v) HWY_ATTR { return hn::Set(d, static_cast<T>(v)); };
  const V quarter = hn::Round(hn::Mul(x, set(2 / std::numbers::pi)));
  V r, s, c;
  if constexpr (sizeof(T) == 4) {
    r = hn::NegMulAdd(quarter, set(1.5703125), x);
    r = hn::NegMulAdd(quarter, set(4.837512969970703125e-4), r);
    r = hn::NegMulAdd(quarter, set(7.549789948768648e-8), r);
    const V z = hn::Mul(r, r);
    s = hn::MulAdd(hn::MulAdd(set(-1.9515295891e-4), z, set(8.3321608736e-3)), z, set(-1.6666654611e-1));
    s = hn::MulAdd(hn::Mul(s, z), r, r);
    c = hn::MulAdd(hn::MulAdd(set(2.443315711809948e-5), z, set(-1.388731625493765e-3)), z,
                   set(4.166664568298827e-2));
    c = hn::MulAdd(hn::Mul(c, z), z, hn::NegMulAdd(set(0.5), z, set(1)));
  } else {
    r = hn::NegMulAdd(quarter, set(1.57079625129699707031), x);
    r = hn::NegMulAdd(quarter, set(7.54978941586159635335e-8), r);
    r = hn::NegMulAdd(quarter, set(5.39030285815811905290e-15), r);
    const V z = hn::Mul(r, r);
    s = hn::MulAdd(set(1.58962301576546568060e-10), z, set(-2.50507477628578072866e-8));
    s = hn::MulAdd(s, z, set(2.75573136213857245213e-6));
    s = hn::MulAdd(s, z, set(-1.98412698295895385996e-4));
    s = hn::MulAdd(s, z, set(8.33333333332211858878e-3));
    s = hn::MulAdd(s, z, set(-1.66666666666666307295e-1));
    s = hn::MulAdd(hn::Mul(s, z), r, r);
    c = hn::MulAdd(set(-1.13585365213876817300e-11), z, set(2.08757008419747316778e-9));
    c = hn::MulAdd(c, z, set(-2.75573141792967388112e-7));
    c = hn::MulAdd(c, z, set(2.48015872888517045348e-5));
    c = hn::MulAdd(c, z, set(-1.38888888888730564116e-3));
    c = hn::MulAdd(c, z, set(4.16666666666665929218e-2));
    c = hn::MulAdd(hn::Mul(c, z), z, hn::NegMulAdd(set(0.5), z, set(1)));
  }
  // Which quarter turn: odd ones swap the two, and signs follow. `even` is the
  // largest even number not above it.
  const V half = hn::Floor(hn::Mul(quarter, set(0.5)));
  const V odd = hn::NegMulAdd(set(2), half, quarter);
  const auto is_odd = hn::Ne(odd, hn::Zero(d));
  const V half_odd = hn::NegMulAdd(set(2), hn::Floor(hn::Mul(half, set(0.5))), half);
  const auto turned = hn::Ne(half_odd, hn::Zero(d));
  const V a = hn::IfThenElse(is_odd, c, s), b = hn::IfThenElse(is_odd, hn::Neg(s), c);
  sine = hn::IfThenElse(turned, hn::Neg(a), a);
  cosine = hn::IfThenElse(turned, hn::Neg(b), b);
}

template <typename T>
HWY_ATTR void turns(int64_t n, const T* angle, T* out) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto pi = hn::Set(d, static_cast<T>(std::numbers::pi));
  for (int64_t i = 0; i < n; i += lanes) {
    const size_t m = static_cast<size_t>(HWY_MIN(lanes, n - i));
    simd::StoreTail(hn::Mul(pi, simd::Tanh(d, simd::LoadTail(d, angle + i, m))), d, out + i, m);
  }
}

template <typename T>
HWY_ATTR void turns_vjp(int64_t n, const T* angle, T* g) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto pi = hn::Set(d, static_cast<T>(std::numbers::pi)), one = hn::Set(d, T(1));
  for (int64_t i = 0; i < n; i += lanes) {
    const size_t m = static_cast<size_t>(HWY_MIN(lanes, n - i));
    const auto t = simd::Tanh(d, simd::LoadTail(d, angle + i, m));
    const auto slope = hn::Mul(pi, hn::NegMulAdd(t, t, one));
    simd::StoreTail(hn::Mul(simd::LoadTail(d, g + i, m), slope), d, g + i, m);
  }
}

template <typename T>
HWY_ATTR void advance(int64_t n, T dt, const T* turn, T* phi) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto step = hn::Set(d, dt), round = hn::Set(d, static_cast<T>(2 * std::numbers::pi)),
             inverse = hn::Set(d, static_cast<T>(0.5 / std::numbers::pi));
  for (int64_t i = 0; i < n; i += lanes) {
    const size_t m = static_cast<size_t>(HWY_MIN(lanes, n - i));
    const auto v = hn::MulAdd(step, simd::LoadTail(d, turn + i, m), simd::LoadTail(d, phi + i, m));
    simd::StoreTail(hn::NegMulAdd(round, hn::Floor(hn::Mul(v, inverse)), v), d, phi + i, m);
  }
}

template <typename T>
HWY_ATTR void sincos(int64_t n, const T* phi, T* cosine, T* sine) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t i = 0; i < n; i += lanes) {
    const size_t m = static_cast<size_t>(HWY_MIN(lanes, n - i));
    auto s = hn::Zero(d), c = s;
    sine_cosine(d, simd::LoadTail(d, phi + i, m), s, c);
    simd::StoreTail(s, d, sine + i, m);
    simd::StoreTail(c, d, cosine + i, m);
  }
}

template <typename T>
HWY_ATTR void turn(int64_t n, bool adjacent, int64_t N, const T* cosine, const T* sine, T sign, T* v) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d)), half = N / 2;
  const auto way = hn::Set(d, sign);
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto c = hn::LoadU(d, cosine + i), s = hn::Mul(way, hn::LoadU(d, sine + i));
    auto a = c, b = c;
    if (adjacent) {
      hn::LoadInterleaved2(d, v + 2 * i, a, b);
    } else {
      a = hn::LoadU(d, v + i), b = hn::LoadU(d, v + half + i);
    }
    const auto x = hn::NegMulAdd(b, s, hn::Mul(a, c)), y = hn::MulAdd(a, s, hn::Mul(b, c));
    if (adjacent) {
      hn::StoreInterleaved2(x, y, d, v + 2 * i);
    } else {
      hn::StoreU(x, d, v + i);
      hn::StoreU(y, d, v + half + i);
    }
  }
  for (; i < n; i++) {
    T &a = v[adjacent ? 2 * i : i], &b = v[adjacent ? 2 * i + 1 : half + i];
    const T kept = a, s = sign * sine[i];
    a = kept * cosine[i] - b * s;
    b = kept * s + b * cosine[i];
  }
}

template <typename T>
HWY_ATTR void turn_gradient(int64_t n, bool adjacent, int64_t N, const T* y, const T* dy, T* dphi) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d)), half = N / 2;
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    auto a = hn::Zero(d), b = a, da = a, db = a;
    if (adjacent) {
      hn::LoadInterleaved2(d, y + 2 * i, a, b);
      hn::LoadInterleaved2(d, dy + 2 * i, da, db);
    } else {
      a = hn::LoadU(d, y + i), b = hn::LoadU(d, y + half + i);
      da = hn::LoadU(d, dy + i), db = hn::LoadU(d, dy + half + i);
    }
    hn::StoreU(hn::Add(hn::LoadU(d, dphi + i), hn::NegMulAdd(b, da, hn::Mul(a, db))), d, dphi + i);
  }
  for (; i < n; i++) {
    const int64_t a = adjacent ? 2 * i : i, b = adjacent ? 2 * i + 1 : half + i;
    dphi[i] += y[a] * dy[b] - y[b] * dy[a];
  }
}

template <typename T>
HWY_ATTR void sum(int64_t n, const T* a, const T* b, T* out) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    const auto v = hn::LoadU(d, a + i);
    hn::StoreU(b ? hn::Add(v, hn::LoadU(d, b + i)) : v, d, out + i);
  }
  for (; i < n; i++) out[i] = b ? a[i] + b[i] : a[i];
}

template <typename T>
HWY_ATTR void add_to(int64_t n, const T* a, T* to) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) hn::StoreU(hn::Add(hn::LoadU(d, to + i), hn::LoadU(d, a + i)), d, to + i);
  for (; i < n; i++) to[i] += a[i];
}

template <typename T>
RotaryLoops<T> loops() {
  return {&turns<T>, &turns_vjp<T>, &advance<T>, &sincos<T>, &turn<T>, &turn_gradient<T>, &sum<T>, &add_to<T>};
}

HWY_ATTR void fill_rotary(RotaryLoops<float>& single, RotaryLoops<double>& wide) {
  single = loops<float>();
  wide = loops<double>();
}

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
