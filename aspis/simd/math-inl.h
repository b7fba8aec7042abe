// Vector mathematics for the kernels, per instruction set, for float and
// double: the one place where exponentials and their relatives come from.
//
// Included inside Highway's foreach_target mechanism (see targets.h); all names
// live in aspis::HWY_NAMESPACE and take a tag `d` first. Everything propagates
// NaN, is defined on the whole real line and handles +-inf as the limit says
// (x times a factor that is 0 at -inf gives NaN, as in PyTorch: silu, gelu).
// Accuracy is measured by math_test.cc; the table is in math.h. Coefficients
// are minimax fits (Remez, 45 digits) made for these ranges.

#if defined(ASPIS_SIMD_MATH_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ASPIS_SIMD_MATH_INL_H_
#undef ASPIS_SIMD_MATH_INL_H_
#else
#define ASPIS_SIMD_MATH_INL_H_
#endif

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

HWY_BEFORE_NAMESPACE();
namespace aspis::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

template <class D>
inline constexpr bool kIsF32 = sizeof(hn::TFromD<D>) == 4;

// True where masked loads and stores touch only the lanes of the mask.
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
inline constexpr bool kTrueMasks = true;
#else
inline constexpr bool kTrueMasks = false;
#endif

// True where MulAdd rounds once.
#if HWY_TARGET == HWY_SSE4 || HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128
inline constexpr bool kFused = false;
#else
inline constexpr bool kFused = true;
#endif

// ---------------------------------------------------------------- lanes

/// The first `n` lanes from p (0 <= n <= Lanes(d)), the rest 0. Reads nothing
/// behind p + n.
template <class D, class T = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> LoadTail(D d, const T* p, size_t n) {
  if constexpr (kTrueMasks) {
    return hn::MaskedLoad(hn::FirstN(d, n), d, p);
  } else {
    HWY_ALIGN T buffer[HWY_MAX_BYTES / sizeof(T)] = {};
    std::memcpy(buffer, p, n * sizeof(T));
    return hn::Load(d, buffer);
  }
}

/// As LoadTail, with `fill` in the other lanes.
template <class D, class T = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> LoadTailOr(D d, const T* p, size_t n, T fill) {
  return hn::IfThenElse(hn::FirstN(d, n), LoadTail(d, p, n), hn::Set(d, fill));
}

/// Writes the first `n` lanes of v to p and nothing behind.
template <class D, class T = hn::TFromD<D>>
HWY_INLINE void StoreTail(hn::Vec<D> v, D d, T* p, size_t n) {
  if constexpr (kTrueMasks) {
    hn::BlendedStore(v, hn::FirstN(d, n), d, p);
  } else {
    HWY_ALIGN T buffer[HWY_MAX_BYTES / sizeof(T)];
    hn::Store(v, d, buffer);
    std::memcpy(p, buffer, n * sizeof(T));
  }
}

/// Sum and maximum of all lanes, always in the same order. LaneMax says nothing
/// about NaN: look for NaN apart where it matters.
template <class D>
HWY_INLINE hn::TFromD<D> LaneSum(D d, hn::Vec<D> v) {
  return hn::GetLane(hn::SumOfLanes(d, v));
}
template <class D>
HWY_INLINE hn::TFromD<D> LaneMax(D d, hn::Vec<D> v) {
  return hn::GetLane(hn::MaxOfLanes(d, v));
}

/// max(x, lo) and min(x, hi) that keep a NaN in x. (x86 min/max return their
/// second operand when unordered; Arm's prefer the number.)
template <class D>
HWY_INLINE hn::Vec<D> ClampLow(D d, hn::Vec<D> x, hn::TFromD<D> lo) {
#if HWY_ARCH_X86 && HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128
  return hn::Max(hn::Set(d, lo), x);
#else
  const auto v = hn::Set(d, lo);
  return hn::IfThenElse(hn::Lt(x, v), v, x);
#endif
}
template <class D>
HWY_INLINE hn::Vec<D> ClampHigh(D d, hn::Vec<D> x, hn::TFromD<D> hi) {
#if HWY_ARCH_X86 && HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128
  return hn::Min(hn::Set(d, hi), x);
#else
  const auto v = hn::Set(d, hi);
  return hn::IfThenElse(hn::Gt(x, v), v, x);
#endif
}

/// c0 + c1 x + c2 x^2 + ... by Horner's rule.
template <class D, class T>
HWY_INLINE hn::Vec<D> Poly(D d, hn::Vec<D> /*x*/, T c0) {
  return hn::Set(d, static_cast<hn::TFromD<D>>(c0));
}
template <class D, class T, class... Rest>
HWY_INLINE hn::Vec<D> Poly(D d, hn::Vec<D> x, T c0, Rest... rest) {
  return hn::MulAdd(x, Poly(d, x, rest...), hn::Set(d, static_cast<hn::TFromD<D>>(c0)));
}

// ---------------------------------------------------------------- exponentials

namespace math_detail {

template <class T>
struct Bits;
template <>
struct Bits<float> {
  static constexpr int kMantissa = 23;
  static constexpr int32_t kBias = 127;
  static constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  static constexpr int32_t kSqrtHalf = 0x3f3504f3;
  static constexpr float kLog2e = 1.44269504088896341f;
  // ln 2 in two parts; n * kLn2Hi is exact for every exponent n.
  static constexpr float kLn2Hi = 0.693145751953125f;
  static constexpr float kLn2Lo = 1.42860682030941723e-6f;
  static constexpr float kExpZero = -104.0f;       // exp is 0 below
  static constexpr float kExpInf = 89.0f;          // and inf above
  static constexpr float kExpNormal = -87.33654f;  // exp is a normal number from here
};
template <>
struct Bits<double> {
  static constexpr int kMantissa = 52;
  static constexpr int64_t kBias = 1023;
  static constexpr double kMagic = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr int64_t kSqrtHalf = 0x3fe6a09e667f3bcd;
  static constexpr double kLog2e = 1.44269504088896340736;
  static constexpr double kLn2Hi = 6.93147180369123816490e-01;
  static constexpr double kLn2Lo = 1.90821492927058770002e-10;
  static constexpr double kExpZero = -746.0;
  static constexpr double kExpInf = 710.0;
  static constexpr double kExpNormal = -708.396418532264;
};

// x = n ln 2 + r with |r| <= ln2 / 2; `shifted` carries n in its low bits.
template <class V>
struct Reduced {
  V shifted, n, r;
};

template <class D, class V = hn::Vec<D>>
HWY_INLINE Reduced<V> ReduceLn2(D d, V x) {
  using B = Bits<hn::TFromD<D>>;
  const V magic = hn::Set(d, B::kMagic);
  const V shifted = hn::MulAdd(x, hn::Set(d, B::kLog2e), magic);
  const V n = hn::Sub(shifted, magic);
  V r = hn::NegMulAdd(n, hn::Set(d, B::kLn2Hi), x);
  r = hn::NegMulAdd(n, hn::Set(d, B::kLn2Lo), r);
  return {shifted, n, r};
}

// p * 2^n for p in [0.7, 1.5) where the result is a normal number: an integer
// addition to the exponent.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V ScaleNormal(D d, V p, V shifted) {
  using B = Bits<hn::TFromD<D>>;
  const hn::RebindToSigned<D> di;
  return hn::BitCast(d, hn::Add(hn::BitCast(di, p), hn::ShiftLeft<B::kMantissa>(hn::BitCast(di, shifted))));
}

#if HWY_TARGET == HWY_AVX3
// p * 2^n in one instruction, right for overflow, underflow and NaN.
inline constexpr bool kHasScalef = true;
template <class V>
HWY_INLINE V Scalef(V p, V n) {
  using R = decltype(p.raw);
  if constexpr (std::is_same_v<R, __m512>) {
    return V{_mm512_scalef_ps(p.raw, n.raw)};
  } else if constexpr (std::is_same_v<R, __m512d>) {
    return V{_mm512_scalef_pd(p.raw, n.raw)};
  } else if constexpr (std::is_same_v<R, __m256>) {
    return V{_mm256_scalef_ps(p.raw, n.raw)};
  } else if constexpr (std::is_same_v<R, __m256d>) {
    return V{_mm256_scalef_pd(p.raw, n.raw)};
  } else if constexpr (std::is_same_v<R, __m128>) {
    return V{_mm_scalef_ps(p.raw, n.raw)};
  } else {
    return V{_mm_scalef_pd(p.raw, n.raw)};
  }
}
#else
inline constexpr bool kHasScalef = false;
template <class V>
HWY_INLINE V Scalef(V p, V /*n*/) {
  return p;
}
#endif

// 2^n for an integer vector n with a normal result.
template <class D, class VI>
HWY_INLINE hn::Vec<D> PowerOfTwo(D d, VI n) {
  using B = Bits<hn::TFromD<D>>;
  const hn::RebindToSigned<D> di;
  return hn::BitCast(d, hn::ShiftLeft<B::kMantissa>(hn::Add(n, hn::Set(di, B::kBias))));
}

// n as an integer vector.
template <class D>
HWY_INLINE hn::Vec<hn::RebindToSigned<D>> IntegerOf(D d, hn::Vec<D> shifted) {
  using B = Bits<hn::TFromD<D>>;
  const hn::RebindToSigned<D> di;
  return hn::Sub(hn::BitCast(di, shifted), hn::BitCast(di, hn::Set(d, B::kMagic)));
}

// p * 2^n with gradual underflow and overflow to inf.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V ScaleAny(D d, V p, const Reduced<V>& x) {
  if constexpr (kHasScalef) {
    return Scalef(p, x.n);
  } else {
    const auto n = IntegerOf(d, x.shifted);
    const auto half = hn::ShiftRight<1>(n);
    return hn::Mul(hn::Mul(p, PowerOfTwo(d, half)), PowerOfTwo(d, hn::Sub(n, half)));
  }
}

// (e^r - 1 - r) / r^2 on |r| <= ln2/2.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V ExpTail(D d, V r) {
  if constexpr (kIsF32<D>) {
    return Poly(d, r, 0.499999934479713904, 0.166665206355460531, 0.04166838803406379752, 0.008368716502431125203,
                0.001381459802310672503);
  } else {
    return Poly(d, r, 0.5000000000000010224, 0.1666666666666667453, 0.04166666666652199076,
                0.008333333333322207319, 0.001388888894782088566, 0.0001984126988659094279,
                0.00002480148732601803636, 2.755724233673621271e-6, 2.763265575738609945e-7,
                2.511004987682203199e-8);
  }
}
// 1 + r + r^2 tail
template <class D, class V = hn::Vec<D>>
HWY_INLINE V OnePlus(D d, V r, V tail) {
  const V one = hn::Set(d, hn::TFromD<D>(1));
  return hn::MulAdd(r, hn::MulAdd(r, tail, one), one);
}

// e^r on |r| <= ln2/2: as exact as it gets, or one multiplication cheaper in
// float for one more ULP.
template <bool kFast, class D, class V = hn::Vec<D>>
HWY_INLINE V ExpReduced(D d, V r) {
  if constexpr (kFast && kIsF32<D>) {
    return Poly(d, r, 1.0, 0.9999997070362855454, 0.4999914921601020824, 0.1666763652261898043,
                0.04189797298850657466, 0.008290309331433810242);
  } else {
    return OnePlus(d, r, ExpTail(d, r));
  }
}

}  // namespace math_detail

/// e^x: gradual underflow, inf above the range.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Exp(D d, V x) {
  using B = math_detail::Bits<hn::TFromD<D>>;
  x = ClampHigh(d, ClampLow(d, x, B::kExpZero), B::kExpInf);
  const auto r = math_detail::ReduceLn2(d, x);
  return math_detail::ScaleAny(d, math_detail::ExpReduced<false>(d, r.r), r);
}

namespace math_detail {
template <class D, class V = hn::Vec<D>>
HWY_INLINE V FinishNonPositive(D d, V x, V p, V shifted, V n, hn::TFromD<D> normal) {
  if constexpr (kHasScalef) {
    return Scalef(p, n);
  } else {
    return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, normal)), ScaleNormal(d, p, shifted));
  }
}
}  // namespace math_detail

/// e^x for x <= 0: the exponential of the scans. 11 instructions on AVX-512, 14
/// elsewhere. Results below the smallest normal number are 0 except on AVX-512,
/// where they are denormal. Positive arguments are not allowed. kFast = false
/// spends one more instruction on one ULP less in float.
template <bool kFast = true, class D, class V = hn::Vec<D>>
HWY_INLINE V ExpNonPositive(D d, V x) {
  using B = math_detail::Bits<hn::TFromD<D>>;
  const V clamped = ClampLow(d, x, math_detail::kHasScalef ? B::kExpZero : B::kExpNormal);
  const auto r = math_detail::ReduceLn2(d, clamped);
  const V p = math_detail::ExpReduced<kFast>(d, r.r);
  return math_detail::FinishNonPositive(d, x, p, r.shifted, r.n, B::kExpNormal);
}

/// 2^t for t <= 0, otherwise as ExpNonPositive but three instructions shorter:
/// with A log2(e) computed once per row, exp(dt A) = 2^(dt (A log2 e)).
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Exp2NonPositive(D d, V t) {
  using T = hn::TFromD<D>;
  using B = math_detail::Bits<T>;
  constexpr T kNormal = T(1 - B::kBias);
  const V clamped = ClampLow(d, t, math_detail::kHasScalef ? kNormal - T(B::kMantissa + 2) : kNormal);
  const V magic = hn::Set(d, B::kMagic);
  const V shifted = hn::Add(clamped, magic);
  const V n = hn::Sub(shifted, magic);
  const V r = hn::Sub(clamped, n);
  V p;
  if constexpr (kIsF32<D>) {
    p = Poly(d, r, 1.0, 0.6931469774924383842, 0.240222419340534098, 0.05550733853061467766,
             0.009671522730996114939, 0.001326471840944324206);
  } else {
    p = Poly(d, r, 1.0, 0.6931471805599453258, 0.2402265069591013132, 0.05550410866482008203,
             0.009618129107594094166, 0.001333355814677482201, 0.0001540353045714844427, 0.00001525273349301085574,
             1.321543526262614103e-6, 1.017819959018335997e-7, 7.073786865869837889e-9, 4.43477288142292026e-10);
  }
  return math_detail::FinishNonPositive(d, t, p, shifted, n, kNormal);
}

namespace math_detail {
// e^x - 1 for -kExpInf/2 <= x <= 0 (a NaN stays): 2^n (e^r - 1) + (2^n - 1).
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Expm1NonPositive(D d, V x) {
  const V one = hn::Set(d, hn::TFromD<D>(1));
  const auto r = ReduceLn2(d, x);
  const V p = hn::MulAdd(hn::Mul(r.r, r.r), ExpTail(d, r.r), r.r);
  const V scale = PowerOfTwo(d, IntegerOf(d, r.shifted));
  return hn::MulAdd(scale, p, hn::Sub(scale, one));
}
}  // namespace math_detail

// ---------------------------------------------------------------- logarithms

namespace math_detail {
// k ln 2 + log(1 + f) for 1 + f in [sqrt(1/2), sqrt(2)).
template <class D, class V = hn::Vec<D>>
HWY_INLINE V LogOf(D d, V f, V k) {
  using T = hn::TFromD<D>;
  using B = Bits<T>;
  const V s = hn::Div(f, hn::Add(f, hn::Set(d, T(2))));
  const V z = hn::Mul(s, s);
  V p;  // (2 atanh(s) / s - 2) / z
  if constexpr (kIsF32<D>) {
    p = Poly(d, z, 0.6666677671443484883, 0.3997749581448734836, 0.298730680267834888);
  } else {
    p = Poly(d, z, 0.6666666666666734888, 0.3999999999941113784, 0.2857142874325339026, 0.2222219847688223989,
             0.1818356969556082957, 0.1531390432981423555, 0.1479749728152618707);
  }
  const V half_square = hn::Mul(hn::Mul(f, f), hn::Set(d, T(0.5)));
  const V rest = hn::MulAdd(s, hn::MulAdd(z, p, half_square), hn::Mul(k, hn::Set(d, B::kLn2Lo)));
  return hn::MulAdd(k, hn::Set(d, B::kLn2Hi), hn::Sub(f, hn::Sub(half_square, rest)));
}

// k with u / 2^k in [sqrt(1/2), sqrt(2)), for a positive normal u.
template <class D>
HWY_INLINE hn::Vec<hn::RebindToSigned<D>> ExponentOf(D d, hn::Vec<D> u) {
  using B = Bits<hn::TFromD<D>>;
  const hn::RebindToSigned<D> di;
  (void)d;
  return hn::ShiftRight<B::kMantissa>(hn::Sub(hn::BitCast(di, u), hn::Set(di, B::kSqrtHalf)));
}

// A small integer as a floating-point number.
template <class D, class VI>
HWY_INLINE hn::Vec<D> FloatOf(D d, VI k) {
  using B = Bits<hn::TFromD<D>>;
  const hn::RebindToSigned<D> di;
  const auto magic = hn::Set(d, B::kMagic);
  return hn::Sub(hn::BitCast(d, hn::Add(k, hn::BitCast(di, magic))), magic);
}

// log(1 + x) for x in (-1, 2^120]; other arguments give nonsense. With
// t = 2^-k, f = x t + (t - 1) is rounded once, so no correction is needed.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Log1pCore(D d, V x) {
  using T = hn::TFromD<D>;
  using B = Bits<T>;
  const hn::RebindToSigned<D> di;
  const V one = hn::Set(d, T(1));
  const auto k = ExponentOf(d, hn::Add(x, one));
  const V t = hn::BitCast(d, hn::ShiftLeft<B::kMantissa>(hn::Sub(hn::Set(di, B::kBias), k)));
  return LogOf(d, hn::MulAdd(x, t, hn::Sub(t, one)), FloatOf(d, k));
}

// Puts the values at 0, below 0 and at inf in place for a logarithm of u.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V LogSpecials(D d, V u, V x, V y) {
  using T = hn::TFromD<D>;
  const V zero = hn::Zero(d);
  const V inf = hn::Set(d, std::numeric_limits<T>::infinity());
  y = hn::IfThenElse(hn::Eq(u, zero), hn::Neg(inf), y);
  y = hn::IfThenElse(hn::Lt(u, zero), hn::Set(d, std::numeric_limits<T>::quiet_NaN()), y);
  // inf and NaN: x itself (a NaN fails the comparison).
  return hn::IfThenElse(hn::Lt(u, inf), y, x);
}
}  // namespace math_detail

/// log(x); log(0) = -inf, NaN below 0.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Log(D d, V x) {
  using T = hn::TFromD<D>;
  using B = math_detail::Bits<T>;
  const hn::RebindToSigned<D> di;
  // Denormals are scaled by 2^mantissa first.
  const auto tiny = hn::Lt(x, hn::Set(d, std::numeric_limits<T>::min()));
  const V u = hn::IfThenElse(tiny, hn::Mul(x, hn::Set(d, T(int64_t{1} << B::kMantissa))), x);
  const auto k = math_detail::ExponentOf(d, u);
  const V m = hn::BitCast(d, hn::Sub(hn::BitCast(di, u), hn::ShiftLeft<B::kMantissa>(k)));
  V kf = math_detail::FloatOf(d, k);
  kf = hn::Sub(kf, hn::IfThenElseZero(tiny, hn::Set(d, T(B::kMantissa))));
  const V y = math_detail::LogOf(d, hn::Sub(m, hn::Set(d, T(1))), kf);
  return math_detail::LogSpecials(d, x, x, y);
}

/// log(1 + x); log1p(-1) = -inf, NaN below -1.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Log1p(D d, V x) {
  using T = hn::TFromD<D>;
  const V one = hn::Set(d, T(1));
  // Above 2^100 the 1 is lost anyway, and 2^-k would underflow: log(x 2^-64) + 64 ln 2.
  const auto big = hn::Gt(x, hn::Set(d, T(1.2676506002282294e30)));
  const V scaled = hn::IfThenElse(big, hn::Mul(x, hn::Set(d, T(1) / T(18446744073709551616.0))), x);
  V y;
  if constexpr (kIsF32<D>) {
    y = math_detail::Log1pCore(d, scaled);
    y = hn::Add(y, hn::IfThenElseZero(big, hn::Set(d, T(44.3614195558364998))));
  } else {
    y = hn::IfThenElse(big, Log(d, x), math_detail::Log1pCore(d, x));
  }
  // -0 and denormals: x itself.
  y = hn::IfThenElse(hn::Lt(hn::Abs(x), hn::Set(d, std::numeric_limits<T>::min())), x, y);
  return math_detail::LogSpecials(d, hn::Add(x, one), x, y);
}

/// softplus(x) = x for x > 20, else log1p(e^x), the threshold of PyTorch and of
/// the published scans. Its derivative is SoftplusGrad, on the same branch.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Softplus(D d, V x) {
  using T = hn::TFromD<D>;
  const V threshold = hn::Set(d, T(20));
  // e^x <= e^20, so the core needs no special values; NaN goes through Exp.
  const V e = Exp(d, ClampHigh(d, x, T(20)));
  V y = math_detail::Log1pCore(d, e);
  // log1p(e) = e below: keeps denormals exact and lets a NaN pass.
  y = hn::IfThenElse(hn::Ge(e, hn::Set(d, std::numeric_limits<T>::min())), y, e);
  return hn::IfThenElse(hn::Gt(x, threshold), x, y);
}

// ---------------------------------------------------------------- sigmoid family

namespace math_detail {
// sigma(x) = num / den and 1 - sigma(x) = other / den, without cancellation.
template <class V>
struct SigmoidParts {
  V num, other, den;
};
template <class D, class V = hn::Vec<D>>
HWY_INLINE SigmoidParts<V> SplitSigmoid(D d, V x) {
  const V one = hn::Set(d, hn::TFromD<D>(1));
  const V a = ExpNonPositive<false>(d, hn::Neg(hn::Abs(x)));
  const auto negative = hn::Lt(x, hn::Zero(d));
  return {hn::IfThenElse(negative, a, one), hn::IfThenElse(negative, one, a), hn::Add(one, a)};
}
// sigma (1 + x' slope (1 - sigma)) with x' slope given as `w`.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V GatedGrad(D d, const SigmoidParts<V>& s, V w) {
  const V one = hn::Set(d, hn::TFromD<D>(1));
  const V inverse = hn::Div(one, s.den);
  return hn::Mul(hn::Mul(s.num, inverse), hn::MulAdd(w, hn::Mul(s.other, inverse), one));
}
}  // namespace math_detail

/// 1 / (1 + e^-x), with full relative accuracy on both sides.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Sigmoid(D d, V x) {
  const auto s = math_detail::SplitSigmoid(d, x);
  return hn::Div(s.num, s.den);
}

/// d softplus / dx: 1 above 20, else sigmoid(x).
template <class D, class V = hn::Vec<D>>
HWY_INLINE V SoftplusGrad(D d, V x) {
  using T = hn::TFromD<D>;
  return hn::IfThenElse(hn::Gt(x, hn::Set(d, T(20))), hn::Set(d, T(1)), Sigmoid(d, x));
}

/// x sigmoid(x).
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Silu(D d, V x) {
  const auto s = math_detail::SplitSigmoid(d, x);
  return hn::Div(hn::Mul(x, s.num), s.den);
}

/// sigma (1 + x (1 - sigma)).
template <class D, class V = hn::Vec<D>>
HWY_INLINE V SiluGrad(D d, V x) {
  return math_detail::GatedGrad(d, math_detail::SplitSigmoid(d, x), x);
}

/// Silu and SiluGrad of one x, with one exponential.
template <class D, class V = hn::Vec<D>>
HWY_INLINE void SiluAndGrad(D d, V x, V& value, V& grad) {
  const auto s = math_detail::SplitSigmoid(d, x);
  const V one = hn::Set(d, hn::TFromD<D>(1));
  const V inverse = hn::Div(one, s.den);
  const V sigma = hn::Mul(s.num, inverse);
  value = hn::Mul(x, sigma);
  grad = hn::Mul(sigma, hn::MulAdd(x, hn::Mul(s.other, inverse), one));
}

template <class D, class V = hn::Vec<D>>
HWY_INLINE V Tanh(D d, V x) {
  using T = hn::TFromD<D>;
  // tanh|x| = -E / (E + 2) with E = e^(-2|x|) - 1, which is 1 beyond the clamp.
  const V z = ClampHigh(d, hn::Abs(x), kIsF32<D> ? T(10) : T(20));
  const V e = math_detail::Expm1NonPositive(d, hn::Mul(z, hn::Set(d, T(-2))));
  const V y = hn::Div(hn::Neg(e), hn::Add(e, hn::Set(d, T(2))));
  return hn::CopySignToAbs(y, x);
}

// ---------------------------------------------------------------- error function

namespace math_detail {
// e^(z^2) erfc(z) for z >= 0 up to where erfc underflows, as s P(1 - 2 s) with
// s = K / (z + K).
template <class D, class V = hn::Vec<D>>
HWY_INLINE V ScaledErfc(D d, V z) {
  using T = hn::TFromD<D>;
  const V k = hn::Set(d, kIsF32<D> ? T(3) : T(3.75));
  const V s = hn::Div(k, hn::Add(z, k));
  const V t = hn::NegMulAdd(hn::Set(d, T(2)), s, hn::Set(d, T(1)));
  V p;
  if constexpr (kIsF32<D>) {
    p = Poly(d, t, 0.3580023025891078095, -0.2944648288166574759, 0.1967427661708753253, -0.1034886694785864547,
             0.03984302276006944878, -0.008946608850338139289, -0.0004088100818773925857, 0.001026776139692232533,
             -0.0001610591955870331348, -0.0001084446433877466833);
  } else {
    p = Poly(d, t, 0.2911794425500770786, -0.2556644204407758883, 0.1963517133924669211, -0.1307920776553803352,
             0.07441654640902004029, -0.03518810698096584115, 0.01309834096381654185, -0.003342901343878522534,
             0.0002630234910778120188, 0.0002119528229170598326, -0.00009297251856219459011,
             2.825082575244314011e-6, 9.992575827652923085e-6, -2.374439482419089352e-6, -8.775744834971574205e-7,
             4.41693961521700844e-7, 7.543748884953879154e-8, -7.032557255999482814e-8, -8.216005440069196003e-9,
             1.055172255356662709e-8, 1.608468573985781718e-9, -1.161679496103328008e-9,
             -3.157510195899731631e-10);
  }
  return hn::Mul(s, p);
}

// e^(-c x^2) with the rounding error of the square put back, for c in {1/2, 1}.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V ExpOfSquare(D d, V x, hn::TFromD<D> c) {
  const hn::RebindToSigned<D> di;
  const V high = hn::Mul(x, x);
  V low;
  if constexpr (kFused) {
    low = hn::MulSub(x, x, high);
  } else {
    // x = a + b with a of half the bits: x^2 = a^2 + (x - a)(x + a).
    const auto mask = kIsF32<D> ? ~hn::TFromD<decltype(di)>(0xfff) : ~hn::TFromD<decltype(di)>(0x7ffffff);
    const V a = hn::BitCast(d, hn::And(hn::BitCast(di, x), hn::Set(di, mask)));
    low = hn::Add(hn::Sub(hn::Mul(a, a), high), hn::Mul(hn::Sub(x, a), hn::Add(x, a)));
  }
  const V e = ExpNonPositive<false>(d, hn::Mul(high, hn::Set(d, -c)));
  return hn::NegMulAdd(hn::Mul(e, hn::Set(d, c)), low, e);
}

// Standard normal distribution: phi = e^(-x^2/2) (not yet divided by sqrt(2 pi))
// and cdf = Phi(x), accurate in the left tail.
template <class V>
struct Normal {
  V clamped, phi, cdf;
};
template <class D, class V = hn::Vec<D>>
HWY_INLINE Normal<V> NormalOf(D d, V x) {
  using T = hn::TFromD<D>;
  const V z = ClampHigh(d, hn::Abs(x), kIsF32<D> ? T(14.5) : T(38.7));
  const V phi = ExpOfSquare(d, z, T(0.5));
  const V tail =
      hn::Mul(hn::Mul(hn::Set(d, T(0.5)), phi), ScaledErfc(d, hn::Mul(z, hn::Set(d, T(0.707106781186547524)))));
  const V cdf = hn::IfThenElse(hn::Lt(x, hn::Zero(d)), tail, hn::Sub(hn::Set(d, T(1)), tail));
  return {hn::CopySignToAbs(z, x), phi, cdf};
}
}  // namespace math_detail

template <class D, class V = hn::Vec<D>>
HWY_INLINE V Erf(D d, V x) {
  using T = hn::TFromD<D>;
  const V z = ClampHigh(d, hn::Abs(x), kIsF32<D> ? T(10) : T(27));
  const V z2 = hn::Mul(z, z);
  V inner;  // erf(z) / z on [0, 1]
  if constexpr (kIsF32<D>) {
    inner =
        Poly(d, z2, 1.128379165726563289, -0.3761262582359457591, 0.1128358514374053969, -0.02685381178842595785,
             0.005188327476858495194, -0.0008010192234231319031, 0.00007853857905584514401);
  } else {
    inner =
        Poly(d, z2, 1.128379167095512574, -0.376126389031837476, 0.1128379167095485747, -0.02686617064507289167,
             0.00522397762478083755, -0.0008548326978740621359, 0.0001205533103684489941,
             -0.0000149255935056450527, 1.64609727981506797e-6, -1.635002503408676738e-7, 1.465787865032563786e-8,
             -1.136566164436726765e-9, 5.945254923277616474e-11);
  }
  const V outer =
      hn::NegMulAdd(math_detail::ExpOfSquare(d, z, T(1)), math_detail::ScaledErfc(d, z), hn::Set(d, T(1)));
  const V y = hn::IfThenElse(hn::Lt(z, hn::Set(d, T(1))), hn::Mul(z, inner), outer);
  return hn::CopySignToAbs(y, x);
}

// ---------------------------------------------------------------- GELU

/// x Phi(x), the exact form.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Gelu(D d, V x) {
  return hn::Mul(x, math_detail::NormalOf(d, x).cdf);
}

/// Phi(x) + x phi(x).
template <class D, class V = hn::Vec<D>>
HWY_INLINE V GeluGrad(D d, V x) {
  using T = hn::TFromD<D>;
  const auto n = math_detail::NormalOf(d, x);
  return hn::MulAdd(hn::Mul(n.clamped, n.phi), hn::Set(d, T(0.398942280401432678)), n.cdf);
}

/// The tanh form: 0.5 x (1 + tanh(u)) = x sigmoid(2 u) with
/// u = sqrt(2/pi) (x + 0.044715 x^3).
template <class D, class V = hn::Vec<D>>
HWY_INLINE V GeluTanh(D d, V x) {
  using T = hn::TFromD<D>;
  const V slope =
      hn::MulAdd(hn::Mul(x, x), hn::Set(d, T(0.0713548162726002527)), hn::Set(d, T(1.59576912160573071)));
  const auto s = math_detail::SplitSigmoid(d, hn::Mul(x, slope));
  return hn::Div(hn::Mul(x, s.num), s.den);
}

/// sigma + x sigma (1 - sigma) 2 u'.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V GeluTanhGrad(D d, V x) {
  using T = hn::TFromD<D>;
  // The derivative is 0 or 1 beyond the clamp, and x^3 stays finite.
  const V z = hn::CopySignToAbs(ClampHigh(d, hn::Abs(x), kIsF32<D> ? T(10.5) : T(21)), x);
  const V z2 = hn::Mul(z, z);
  const V c1 = hn::Set(d, T(1.59576912160573071));
  const V slope = hn::MulAdd(z2, hn::Set(d, T(0.0713548162726002527)), c1);
  const V grad = hn::MulAdd(z2, hn::Set(d, T(0.214064448817800758)), c1);
  return math_detail::GatedGrad(d, math_detail::SplitSigmoid(d, hn::Mul(z, slope)), hn::Mul(z, grad));
}

}  // namespace aspis::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // ASPIS_SIMD_MATH_INL_H_
