// Sine and cosine for one instruction set. Included once per target, after math-inl.h.

#include <numbers>

HWY_BEFORE_NAMESPACE();
namespace aspis::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Sine and cosine of |x| <= 2 pi: the nearest multiple of pi / 2 is taken off in
/// three parts, then polynomials on |r| <= pi / 4 (coefficients of the Cephes
/// library, S. Moshier). A NaN stays one.
template <class D, class V = hn::Vec<D>>
HWY_INLINE void SinCos(D d, V x, V& sine, V& cosine) {
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

/// The same for any x: multiples of 2 pi are taken off first. In float that is exact up to about 3e4;
/// beyond, the angle has hardly any digits left and the result only keeps its modulus of 1. NaN for
/// infinities.
template <class D, class V = hn::Vec<D>>
HWY_INLINE void SinCosAny(D d, V x, V& sine, V& cosine) {
  using T = hn::TFromD<D>;
  const auto set = [&](double v) HWY_ATTR { return hn::Set(d, static_cast<T>(v)); };
  const V turns = hn::Round(hn::Mul(x, set(0.5 / std::numbers::pi)));
  V r;
  if constexpr (sizeof(T) == 4) {
    r = hn::NegMulAdd(turns, set(6.28125), x);
    r = hn::NegMulAdd(turns, set(1.93500518798828125e-3), r);
    r = hn::NegMulAdd(turns, set(3.0199159795074592e-7), r);
  } else {
    r = hn::NegMulAdd(turns, set(6.28318500518798828125), x);
    r = hn::NegMulAdd(turns, set(3.01991576634463854e-7), r);
    r = hn::NegMulAdd(turns, set(2.15612114326324759e-14), r);
  }
  const V far = hn::Abs(r);
  r = hn::IfThenZeroElse(hn::Gt(far, set(6.5)), r);
  SinCos(d, r, sine, cosine);
}

}  // namespace aspis::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
