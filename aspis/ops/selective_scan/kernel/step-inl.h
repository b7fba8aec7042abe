// One token of the scan for one instruction set. Included once per target by
// cpu.cc.
//
// Lanes are the states of one channel, so that the state {B, D, N} is read and
// written once in its own order: the traffic of the state is the bound.

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {

inline constexpr int64_t kStepChannels = 64;  // kScanStepChannels of cpu.cc

// Channels [first, first + kStepChannels) of sample b.
template <class D, class T = hn::TFromD<D>>
HWY_INLINE void step_block(D d, const ScanStepParams<T>& p, int64_t b, int64_t first) {
  constexpr int64_t kLanes = hn::MaxLanes(d);
  const int64_t count = std::min(kStepChannels, p.channels - first), N = p.state_size;
  const int64_t group_channels = p.channels / p.groups, row = b * p.channels;
  HWY_ALIGN T step[kStepChannels], dtu[kStepChannels], y[kStepChannels];
  for (int64_t c = 0; c < count; c += kLanes) {
    const int64_t channel = first + c, valid = count - c;
    auto dt = load_channels(d, p.delta + row + channel, valid);
    if (p.delta_bias) dt = hn::Add(dt, load_channels(d, p.delta_bias + channel, valid));
    if (p.softplus) dt = simd::Softplus(d, dt);
    hn::Store(clamp_step(d, dt), d, step + c);
    hn::Store(hn::Mul(dt, load_channels(d, p.u + row + channel, valid)), d, dtu + c);
  }
  const DecayExp<D> exp;
  for (int64_t c = 0; c < count; c++) {
    const int64_t channel = first + c, at = (row + channel) * N;
    const int64_t shared = (b * p.groups + channel / group_channels) * N;
    const T* A = p.A + channel * N;
    const T* B = p.constant_B ? p.B + channel * N : p.B + shared;
    const T* C = p.constant_C ? p.C + channel * N : p.C + shared;
    const auto step_c = hn::Set(d, step[c]), dtu_c = hn::Set(d, dtu[c]);
    auto sum = hn::Zero(d);
    if (HWY_UNLIKELY(p.pairs)) {
      // Real and imaginary parts alternate in the lanes.
      for (int64_t n = 0; n < N; n += kLanes) {
        const int64_t valid = N - n;
        const auto A_n = load_channels(d, A + n, valid), state = load_channels(d, p.state + at + n, valid);
        auto re = hn::DupEven(A_n);
        re = simd::ClampHigh(d, simd::ClampLow(d, re, T(-1e15)), T(1e15));
        hn::Vec<D> a, ai;
        pair_decay(exp, step_c, re, hn::DupOdd(A_n), a, ai);
        const auto moved = hn::MulAdd(a, state, hn::Mul(dtu_c, load_channels(d, B + n, valid)));
        const auto turned = hn::Mul(ai, hn::Reverse2(d, state));  // of (imaginary, real)
        const auto x = hn::OddEven(hn::Add(moved, turned), hn::Sub(moved, turned));
        store_channels(x, d, p.next_state + at + n, valid);
        const auto product = hn::Mul(x, load_channels(d, C + n, valid));
        sum = hn::OddEven(hn::Sub(sum, product), hn::Add(sum, product));
      }
      y[c] = 2 * simd::LaneSum(d, sum);
      continue;
    }
    for (int64_t n = 0; n < N; n += kLanes) {
      const int64_t valid = N - n;
      auto a = load_channels(d, A + n, valid);
      a = simd::ClampHigh(d, simd::ClampLow(d, a, T(-1e15)), T(1e15));
      const auto b_n = hn::Mul(dtu_c, load_channels(d, B + n, valid));
      const auto x = hn::MulAdd(exp(step_c, a), load_channels(d, p.state + at + n, valid), b_n);
      store_channels(x, d, p.next_state + at + n, valid);
      sum = hn::MulAdd(x, load_channels(d, C + n, valid), sum);
    }
    y[c] = simd::LaneSum(d, sum);
  }
  for (int64_t c = 0; c < count; c += kLanes) {
    const int64_t channel = first + c, valid = count - c;
    auto out = load_channels(d, y + c, valid);
    if (p.D) {
      out = hn::MulAdd(load_channels(d, p.D + channel, valid), load_channels(d, p.u + row + channel, valid), out);
    }
    if (p.z) out = hn::Mul(out, simd::Silu(d, load_channels(d, p.z + row + channel, valid)));
    store_channels(out, d, p.out + row + channel, valid);
  }
}

void step_block_f32(const ScanStepParams<float>& p, int64_t b, int64_t first) {
  step_block(hn::ScalableTag<float>(), p, b, first);
}
void step_block_f64(const ScanStepParams<double>& p, int64_t b, int64_t first) {
  step_block(hn::ScalableTag<double>(), p, b, first);
}

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
