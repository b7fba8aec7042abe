// Rows of the depthwise convolution for one instruction set. Included once per
// target by rows.cc.
//
// Four steps at a time: with the W weights, the bias and the W + 3 input rows of
// a channel vector in registers, four outputs cost W + 3 loads instead of 4 W,
// and four independent exponentials hide each other's latency. Channels run
// innermost, so every row is read and written as one stream.

#include "aspis/simd/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

template <bool kTail, class D, typename T = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> load(D d, const T* p, size_t n) {
  if constexpr (kTail) return simd::LoadTail(d, p, n);
  return hn::LoadU(d, p);
}
template <bool kTail, class D, typename T = hn::TFromD<D>>
HWY_INLINE void store(hn::Vec<D> v, D d, T* p, size_t n) {
  if constexpr (kTail) {
    simd::StoreTail(v, d, p, n);
  } else {
    hn::StoreU(v, d, p);
  }
}

// Calls body<kTail>(c, n) for every vector of channels. `Body` is a struct, not
// a lambda: member templates keep the target attribute.
template <class Body>
HWY_ATTR HWY_INLINE void for_vectors(int64_t channels, size_t lanes, const Body& body) {
  const int64_t step = static_cast<int64_t>(lanes);
  int64_t c = 0;
  for (; c + step <= channels; c += step) body.template run<false>(c, lanes);
  if (c < channels) body.template run<true>(c, static_cast<size_t>(channels - c));
}

// kTaps = 0: any number, weights from memory.
template <int kTaps, int kSteps, typename T>
struct ConvBody {
  const Conv1dRows<T>& a;

  template <bool kTail>
  HWY_ATTR HWY_INLINE void run(int64_t c, size_t n) const {
    const hn::ScalableTag<T> d;
    using V = hn::Vec<decltype(d)>;
    const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
    const T* const weights = a.packed + c * (a.width + 1);
    const T* const taps = weights + a.first_tap * lanes;
    const V bias = hn::LoadU(d, weights + a.width * lanes);
    V sum[kSteps];
    for (int s = 0; s < kSteps; s++) sum[s] = a.start_from_out ? load<kTail>(d, a.out[s] + c, n) : bias;
    if constexpr (kTaps > 0) {
      V x[kSteps + kTaps - 1];
      for (int i = 0; i < kSteps + kTaps - 1; i++) x[i] = load<kTail>(d, a.in[i] + c, n);
      for (int k = 0; k < kTaps; k++) {
        const V w = hn::LoadU(d, taps + k * lanes);
        for (int s = 0; s < kSteps; s++) sum[s] = hn::MulAdd(w, x[s + k], sum[s]);
      }
    } else {
      for (int k = 0; k < a.taps; k++) {
        const V w = hn::LoadU(d, taps + k * lanes);
        for (int s = 0; s < kSteps; s++) sum[s] = hn::MulAdd(w, load<kTail>(d, a.in[s + k] + c, n), sum[s]);
      }
    }
    if (a.silu) {
      for (int s = 0; s < kSteps; s++) sum[s] = simd::Silu(d, sum[s]);
    }
    for (int s = 0; s < kSteps; s++) store<kTail>(sum[s], d, a.out[s] + c, n);
  }
};

template <int kTaps, int kSteps, typename T>
struct GradBody {
  const Conv1dGradRows<T>& g;

  template <bool kTail>
  HWY_ATTR HWY_INLINE void run(int64_t c, size_t n) const {
    const Conv1dRows<T>& a = g.rows;
    const hn::ScalableTag<T> d;
    using V = hn::Vec<decltype(d)>;
    const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
    const T* const weights = a.packed + c * (kTaps + 1);
    T* const sums = g.sums + c * (kTaps + 1);
    V x[kSteps + kTaps - 1];
    for (int i = 0; i < kSteps + kTaps - 1; i++) x[i] = load<kTail>(d, a.in[i] + c, n);
    V dpre[kSteps];
    for (int s = 0; s < kSteps; s++) dpre[s] = load<kTail>(d, g.dout[s] + c, n);
    if (a.silu) {
      V pre[kSteps];
      for (int s = 0; s < kSteps; s++) pre[s] = hn::LoadU(d, weights + kTaps * lanes);
      for (int k = 0; k < kTaps; k++) {
        const V w = hn::LoadU(d, weights + k * lanes);
        for (int s = 0; s < kSteps; s++) pre[s] = hn::MulAdd(w, x[s + k], pre[s]);
      }
      for (int s = 0; s < kSteps; s++) dpre[s] = hn::Mul(dpre[s], simd::SiluGrad(d, pre[s]));
    }
    for (int s = 0; s < kSteps; s++) store<kTail>(dpre[s], d, a.out[s] + c, n);
    for (int k = 0; k < kTaps; k++) {
      V sum = hn::LoadU(d, sums + k * lanes);
      for (int s = 0; s < kSteps; s++) sum = hn::MulAdd(dpre[s], x[s + k], sum);
      hn::StoreU(sum, d, sums + k * lanes);
    }
    V sum = hn::LoadU(d, sums + kTaps * lanes);
    for (int s = 0; s < kSteps; s++) sum = hn::Add(sum, dpre[s]);
    hn::StoreU(sum, d, sums + kTaps * lanes);
  }
};

template <typename T>
struct AccumulateBody {
  const Conv1dGradRows<T>& g;

  template <bool kTail>
  HWY_ATTR HWY_INLINE void run(int64_t c, size_t n) const {
    const Conv1dRows<T>& a = g.rows;
    const hn::ScalableTag<T> d;
    const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
    T* const sums = g.sums + c * (a.width + 1);
    for (int k = 0; k < a.taps; k++) {
      T* const p = sums + (a.first_tap + k) * lanes;
      auto sum = hn::LoadU(d, p);
      for (int s = 0; s < a.steps; s++) {
        sum = hn::MulAdd(load<kTail>(d, a.out[s] + c, n), load<kTail>(d, a.in[s + k] + c, n), sum);
      }
      hn::StoreU(sum, d, p);
    }
    if (a.first_tap > 0) return;
    T* const p = sums + a.width * lanes;
    auto sum = hn::LoadU(d, p);
    for (int s = 0; s < a.steps; s++) sum = hn::Add(sum, load<kTail>(d, a.out[s] + c, n));
    hn::StoreU(sum, d, p);
  }
};

template <typename T>
struct SiluGradBody {
  const T* dout;
  T* pre;
  template <bool kTail>
  HWY_ATTR HWY_INLINE void run(int64_t c, size_t n) const {
    const hn::ScalableTag<T> d;
    const auto slope = simd::SiluGrad(d, load<kTail>(d, pre + c, n));
    store<kTail>(hn::Mul(load<kTail>(d, dout + c, n), slope), d, pre + c, n);
  }
};

template <typename T>
struct AddBody {
  const T* x;
  T* y;
  template <bool kTail>
  HWY_ATTR HWY_INLINE void run(int64_t c, size_t n) const {
    const hn::ScalableTag<T> d;
    store<kTail>(hn::Add(load<kTail>(d, y + c, n), load<kTail>(d, x + c, n)), d, y + c, n);
  }
};

// The filters of a vector of channels lie one behind the other: {channel, tap}.
template <int kWidth, typename T>
struct TokenBody {
  const Conv1dToken<T>& a;

  template <bool kTail>
  HWY_ATTR HWY_INLINE void run(int64_t c, size_t n) const {
    const hn::ScalableTag<T> d;
    using V = hn::Vec<decltype(d)>;
    const T* weights = a.weight + c * kWidth;
    HWY_ALIGN T padded[kTail ? kWidth * hn::MaxLanes(d) : 1] = {};
    if constexpr (kTail) {
      for (size_t i = 0; i < n * kWidth; i++) padded[i] = weights[i];
      weights = padded;
    }
    V w[4];
    if constexpr (kWidth == 2) hn::LoadInterleaved2(d, weights, w[0], w[1]);
    if constexpr (kWidth == 3) hn::LoadInterleaved3(d, weights, w[0], w[1], w[2]);
    if constexpr (kWidth == 4) hn::LoadInterleaved4(d, weights, w[0], w[1], w[2], w[3]);
    V sum = a.bias ? load<kTail>(d, a.bias + c, n) : hn::Zero(d);
    for (int k = 0; k < kWidth; k++) {
      V x = hn::Zero(d);
      if (k == kWidth - 1) {
        x = load<kTail>(d, a.x + c, n);
      } else if (a.state) {
        x = load<kTail>(d, a.state + k * a.state_stride + c, n);
      }
      sum = hn::MulAdd(w[k], x, sum);
      if (k > 0 && a.next) store<kTail>(x, d, a.next + (k - 1) * a.next_stride + c, n);
    }
    if (a.silu) sum = simd::Silu(d, sum);
    store<kTail>(sum, d, a.out + c, n);
  }
};

template <typename T>
HWY_ATTR void token(const Conv1dToken<T>& a) {
  const size_t lanes = hn::Lanes(hn::ScalableTag<T>());
  switch (a.width) {
    case 2:
      return for_vectors(a.channels, lanes, TokenBody<2, T>{a});
    case 3:
      return for_vectors(a.channels, lanes, TokenBody<3, T>{a});
    default:
      return for_vectors(a.channels, lanes, TokenBody<4, T>{a});
  }
}

template <int kTaps, typename T>
HWY_ATTR void conv_taps(const Conv1dRows<T>& a) {
  const size_t lanes = hn::Lanes(hn::ScalableTag<T>());
  if (a.steps == kConv1dSteps) {
    for_vectors(a.channels, lanes, ConvBody<kTaps, kConv1dSteps, T>{a});
    return;
  }
  Conv1dRows<T> one = a;
  for (int s = 0; s < a.steps; s++) {
    for (int i = 0; i < a.taps; i++) one.in[i] = a.in[s + i];
    one.out[0] = a.out[s];
    for_vectors(a.channels, lanes, ConvBody<kTaps, 1, T>{one});
  }
}

template <typename T>
HWY_ATTR void conv(const Conv1dRows<T>& a) {
  switch (a.taps) {
    case 2:
      return conv_taps<2>(a);
    case 3:
      return conv_taps<3>(a);
    case 4:
      return conv_taps<4>(a);
    default:
      return conv_taps<0>(a);
  }
}

template <int kTaps, typename T>
HWY_ATTR void grad_taps(const Conv1dGradRows<T>& g) {
  const size_t lanes = hn::Lanes(hn::ScalableTag<T>());
  if (g.rows.steps == kConv1dSteps) {
    for_vectors(g.rows.channels, lanes, GradBody<kTaps, kConv1dSteps, T>{g});
    return;
  }
  Conv1dGradRows<T> one = g;
  for (int s = 0; s < g.rows.steps; s++) {
    for (int i = 0; i < kTaps; i++) one.rows.in[i] = g.rows.in[s + i];
    one.rows.out[0] = g.rows.out[s];
    one.dout[0] = g.dout[s];
    for_vectors(g.rows.channels, lanes, GradBody<kTaps, 1, T>{one});
  }
}

template <typename T>
HWY_ATTR void grad(const Conv1dGradRows<T>& g) {
  switch (g.rows.width) {
    case 2:
      return grad_taps<2>(g);
    case 3:
      return grad_taps<3>(g);
    default:
      return grad_taps<4>(g);
  }
}

template <typename T>
HWY_ATTR void accumulate(const Conv1dGradRows<T>& g) {
  for_vectors(g.rows.channels, hn::Lanes(hn::ScalableTag<T>()), AccumulateBody<T>{g});
}

template <typename T>
HWY_ATTR void silu_grad(const T* dout, T* pre, int64_t n) {
  for_vectors(n, hn::Lanes(hn::ScalableTag<T>()), SiluGradBody<T>{dout, pre});
}

template <typename T>
HWY_ATTR void add(const T* x, T* y, int64_t n) {
  for_vectors(n, hn::Lanes(hn::ScalableTag<T>()), AddBody<T>{x, y});
}

// The position of (channel c, entry k) in the packed layout.
template <typename T>
HWY_ATTR int64_t packed_index(int64_t c, int64_t k, int64_t width) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(hn::ScalableTag<T>()));
  const int64_t lane = c % lanes;
  return (c - lane) * (width + 1) + k * lanes + lane;
}

template <typename T>
HWY_ATTR void pack(const T* weight, const T* bias, int64_t channels, int64_t width, bool flip, T* packed) {
  const int64_t padded = (channels + kConv1dPad - 1) / kConv1dPad * kConv1dPad;
  for (int64_t c = 0; c < padded; c++) {
    for (int64_t k = 0; k < width; k++) {
      packed[packed_index<T>(c, k, width)] = c < channels ? weight[c * width + (flip ? width - 1 - k : k)] : T(0);
    }
    packed[packed_index<T>(c, width, width)] = bias && c < channels ? bias[c] : T(0);
  }
}

template <typename T>
HWY_ATTR void unpack(const T* packed, int64_t channels, int64_t width, T* weight, T* bias) {
  for (int64_t c = 0; c < channels; c++) {
    for (int64_t k = 0; k < width; k++) weight[c * width + k] = packed[packed_index<T>(c, k, width)];
    if (bias) bias[c] = packed[packed_index<T>(c, width, width)];
  }
}

template <typename T>
HWY_ATTR Conv1dRowKernels<T> kernels() {
  return {pack<T>, unpack<T>, conv<T>, grad<T>, accumulate<T>, silu_grad<T>, add<T>, token<T>};
}
HWY_ATTR Conv1dRowKernels<float> kernels_f32() { return kernels<float>(); }
HWY_ATTR Conv1dRowKernels<double> kernels_f64() { return kernels<double>(); }

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
