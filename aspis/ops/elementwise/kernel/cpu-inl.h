// Elementwise maps for one instruction set. Included once per target by cpu.cc.
//
// Bound by memory, every one of them.

#include "aspis/simd/loops-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

template <typename S, typename T = Arithmetic<S>>
HWY_ATTR void pointwise_block(const PointwiseParams<S>& p, int64_t first, int64_t n) {
  const hn::ScalableTag<T> d;
  const S* x = p.x + first;
  S* y = p.y + first;
  switch (p.kind) {
    case Pointwise::kRelu:
      return simd::MapArrays(
          d, n, y, [](auto tag, auto v) HWY_ATTR { return simd::ClampLow(tag, v, T(0)); }, x);
    case Pointwise::kSigmoid:
      return simd::MapArrays(
          d, n, y, [](auto tag, auto v) HWY_ATTR { return simd::Sigmoid(tag, v); }, x);
    case Pointwise::kTanh:
      return simd::MapArrays(
          d, n, y, [](auto tag, auto v) HWY_ATTR { return simd::Tanh(tag, v); }, x);
    case Pointwise::kSoftplus:
      return simd::MapArrays(
          d, n, y, [](auto tag, auto v) HWY_ATTR { return simd::Softplus(tag, v); }, x);
  }
}

// sigma(x) (1 - sigma(x)), without cancellation.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V sigmoid_grad(D d, V x) {
  const auto s = simd::math_detail::SplitSigmoid(d, x);
  const V inverse = hn::Div(hn::Set(d, hn::TFromD<D>(1)), s.den);
  return hn::Mul(hn::Mul(s.num, inverse), hn::Mul(s.other, inverse));
}

template <typename S, typename T = Arithmetic<S>>
HWY_ATTR void pointwise_vjp_block(const PointwiseVjpParams<S>& p, int64_t first, int64_t n) {
  const hn::ScalableTag<T> d;
  const S *x = p.x + first, *dy = p.dy + first;
  S* dx = p.dx + first;
  switch (p.kind) {
    case Pointwise::kRelu:
      return simd::MapArrays(
          d, n, dx,
          [](auto tag, auto v, auto g) HWY_ATTR { return hn::IfThenZeroElse(hn::Le(v, hn::Zero(tag)), g); }, x,
          dy);
    case Pointwise::kSigmoid:
      return simd::MapArrays(
          d, n, dx, [](auto tag, auto v, auto g) HWY_ATTR { return hn::Mul(g, sigmoid_grad(tag, v)); }, x, dy);
    case Pointwise::kTanh:  // 1 - tanh^2(x) = 4 sigma(2 x) (1 - sigma(2 x))
      return simd::MapArrays(
          d, n, dx,
          [](auto tag, auto v, auto g)
              HWY_ATTR { return hn::Mul(g, hn::Mul(hn::Set(tag, T(4)), sigmoid_grad(tag, hn::Add(v, v)))); },
          x, dy);
    case Pointwise::kSoftplus:
      return simd::MapArrays(
          d, n, dx, [](auto tag, auto v, auto g) HWY_ATTR { return hn::Mul(g, simd::SoftplusGrad(tag, v)); }, x,
          dy);
  }
}

// One run along the last axis; b and c are a line each, or one value.
template <typename S, typename T = Arithmetic<S>>
HWY_ATTR void combine_run(Combine kind, int64_t n, const S* a, const S* b, bool b_line, const S* c, bool c_line,
                          S* y) {
  const hn::ScalableTag<T> d;
  const auto add = [](auto, auto u, auto v) HWY_ATTR { return hn::Add(u, v); };
  const auto multiply = [](auto, auto u, auto v) HWY_ATTR { return hn::Mul(u, v); };
  const auto one = hn::Set(d, load_value(*b));
  if (kind == Combine::kAdd) {
    if (b_line) return simd::MapArrays(d, n, y, add, a, b);
    return simd::MapArrays(
        d, n, y, [one](auto, auto u) HWY_ATTR { return hn::Add(u, one); }, a);
  }
  if (kind == Combine::kMultiply) {
    if (b_line) return simd::MapArrays(d, n, y, multiply, a, b);
    return simd::MapArrays(
        d, n, y, [one](auto, auto u) HWY_ATTR { return hn::Mul(u, one); }, a);
  }
  const auto other = hn::Set(d, load_value(*c));
  if (b_line && c_line) {
    simd::MapArrays(
        d, n, y, [](auto, auto u, auto v, auto w) HWY_ATTR { return hn::MulAdd(u, v, w); }, a, b, c);
  } else if (b_line) {
    simd::MapArrays(
        d, n, y, [other](auto, auto u, auto v) HWY_ATTR { return hn::MulAdd(u, v, other); }, a, b);
  } else if (c_line) {
    simd::MapArrays(
        d, n, y, [one](auto, auto u, auto w) HWY_ATTR { return hn::MulAdd(u, one, w); }, a, c);
  } else {
    simd::MapArrays(
        d, n, y, [one, other](auto, auto u) HWY_ATTR { return hn::MulAdd(u, one, other); }, a);
  }
}

// 64 words of Philox4x32-10 from counter 16 block on: word j of counter c at 16 j + c.
HWY_ATTR inline void philox_block(uint64_t key, uint64_t stream, uint64_t block, uint32_t* words) {
  const hn::ScalableTag<uint32_t> d;
  using V = hn::Vec<decltype(d)>;
  const size_t lanes = hn::Lanes(d);
  const auto low = [](uint64_t v) { return static_cast<uint32_t>(v); };
  const auto high = [](uint64_t v) { return static_cast<uint32_t>(v >> 32); };
  const hn::RepartitionToWide<decltype(d)> dw;
  // High and low halves of the products of all lanes by one factor.
  const auto multiply = [&](V v, uint32_t factor, V& upper, V& lower) HWY_ATTR {
    const V f = hn::Set(d, factor);
    const V even = hn::BitCast(d, hn::MulEven(v, f));
    const V odd = hn::BitCast(d, hn::MulEven(hn::BitCast(d, hn::ShiftRight<32>(hn::BitCast(dw, v))), f));
    lower = hn::OddEven(hn::BitCast(d, hn::ShiftLeft<32>(hn::BitCast(dw, odd))), even);
    upper = hn::OddEven(odd, hn::BitCast(d, hn::ShiftRight<32>(hn::BitCast(dw, even))));
  };
  for (size_t first = 0; first < 16; first += lanes) {
    // The low word does not overflow within a block: its last four bits are 0.
    V c0 = hn::Add(hn::Set(d, low(16 * block)), hn::Iota(d, static_cast<uint32_t>(first)));
    V c1 = hn::Set(d, high(16 * block)), c2 = hn::Set(d, low(stream)), c3 = hn::Set(d, high(stream));
    uint32_t k0 = low(key), k1 = high(key);
    for (int round = 0; round < 10; round++) {
      V upper0, lower0, upper1, lower1;
      multiply(c0, 0xD2511F53u, upper0, lower0);
      multiply(c2, 0xCD9E8D57u, upper1, lower1);
      c0 = hn::Xor(hn::Xor(upper1, c1), hn::Set(d, k0));
      c2 = hn::Xor(hn::Xor(upper0, c3), hn::Set(d, k1));
      c1 = lower1;
      c3 = lower0;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    hn::StoreU(c0, d, words + first);
    hn::StoreU(c1, d, words + 16 + first);
    hn::StoreU(c2, d, words + 32 + first);
    hn::StoreU(c3, d, words + 48 + first);
  }
}

// Values [first, first + n), first a multiple of 64.
template <typename S, typename T = Arithmetic<S>>
HWY_ATTR void dropout_block(const DropoutParams<S>& p, uint32_t threshold, int64_t first, int64_t n) {
  const hn::ScalableTag<T> d;
  const T scale = static_cast<T>(1 / (1 - p.rate));
  HWY_ALIGN uint32_t words[64];
  HWY_ALIGN T factor[64];
  for (int64_t i = 0; i < n; i += 64) {
    philox_block(p.key, p.stream, static_cast<uint64_t>((first + i) / 64), words);
    for (int k = 0; k < 64; k++) factor[k] = words[k] >= threshold ? scale : T(0);
    // A dropped NaN or infinity is 0 too.
    simd::MapArrays(
        d, HWY_MIN(int64_t{64}, n - i), p.y + first + i,
        [](auto tag, auto v, auto f)
            HWY_ATTR { return hn::IfThenZeroElse(hn::Eq(f, hn::Zero(tag)), hn::Mul(v, f)); },
        p.x + first + i, factor);
  }
}

template <typename From, typename To>
HWY_ATTR void cast_block(const CastParams<From, To>& p, int64_t first, int64_t n) {
  const hn::ScalableTag<float> d;
  simd::MapArrays(
      d, n, p.y + first, [](auto, auto v) HWY_ATTR { return v; }, p.x + first);
}

#define ASPIS_ELEMENTWISE_FOR(S, suffix)                                                                    \
  HWY_ATTR void pointwise_##suffix(const PointwiseParams<S>& p, int64_t first, int64_t n) {                 \
    pointwise_block(p, first, n);                                                                           \
  }                                                                                                         \
  HWY_ATTR void pointwise_vjp_##suffix(const PointwiseVjpParams<S>& p, int64_t first, int64_t n) {          \
    pointwise_vjp_block(p, first, n);                                                                       \
  }                                                                                                         \
  HWY_ATTR void combine_##suffix(Combine kind, int64_t n, const S* a, const S* b, bool b_line, const S* c,  \
                                 bool c_line, S* y) {                                                       \
    combine_run(kind, n, a, b, b_line, c, c_line, y);                                                       \
  }                                                                                                         \
  HWY_ATTR void dropout_##suffix(const DropoutParams<S>& p, uint32_t threshold, int64_t first, int64_t n) { \
    dropout_block(p, threshold, first, n);                                                                  \
  }
ASPIS_ELEMENTWISE_FOR(float, f32)
ASPIS_ELEMENTWISE_FOR(double, f64)
ASPIS_ELEMENTWISE_FOR(Bf16, bf16)
#undef ASPIS_ELEMENTWISE_FOR

HWY_ATTR void cast_down(const CastParams<float, Bf16>& p, int64_t first, int64_t n) { cast_block(p, first, n); }
HWY_ATTR void cast_up(const CastParams<Bf16, float>& p, int64_t first, int64_t n) { cast_block(p, first, n); }

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
