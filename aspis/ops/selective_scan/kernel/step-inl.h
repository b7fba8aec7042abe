// One token of the scan for one instruction set. Included once per target by
// cpu.cc.
//
// Lanes are the states of one channel, so that the state {B, D, N} is read and
// written once in its own order: the traffic of the state is the bound.

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {

inline constexpr int64_t kStepChannels = 64;  // kScanStepChannels of cpu.cc

// How far ahead states are fetched. A channel is a long chain of instructions for one
// line of memory, so that the processor alone looks only a few lines ahead.
inline constexpr int64_t kStepAheadBytes = 2048;

// Channels [first, first + kStepChannels) of sample b.
template <class D, class T = hn::TFromD<D>>
HWY_INLINE void step_block(D d, const ScanStepParams<T>& p, int64_t b, int64_t first) {
  constexpr int64_t kLanes = hn::MaxLanes(d);
  const int64_t count = std::min(kStepChannels, p.channels - first), N = p.state_size;
  const int64_t group_channels = p.channels / p.groups, row = b * p.channels;
  HWY_ALIGN T step[kStepChannels], dtu[kStepChannels], y[kStepChannels];
  HWY_ALIGN T products[kStepChannels * kLanes];  // x C before the sum over lanes
  for (int64_t c = 0; c < count; c += kLanes) {
    const int64_t channel = first + c, valid = count - c;
    auto dt = load_channels(d, p.delta + row + channel, valid);
    if (p.delta_bias) dt = hn::Add(dt, load_channels(d, p.delta_bias + channel, valid));
    if (p.softplus) dt = simd::Softplus(d, dt);
    hn::Store(clamp_step(d, dt), d, step + c);
    hn::Store(hn::Mul(dt, load_channels(d, p.u + row + channel, valid)), d, dtu + c);
  }
  const DecayExp<D> exp;
  // Copies that no store can change.
  const T *A = p.A + first * N, *state = p.state + (row + first) * N;
  T* next = p.next_state + (row + first) * N;
  const bool pairs = p.pairs, constant_B = p.constant_B, constant_C = p.constant_C;
  const int64_t group = first / group_channels;
  const T* B = constant_B ? p.B + first * N : p.B + (b * p.groups + group) * N;
  const T* C = constant_C ? p.C + first * N : p.C + (b * p.groups + group) * N;
  int64_t left = (group + 1) * group_channels - first;  // channels of the group
  const auto advance = [&] {
    A += N, state += N, next += N;
    const bool group_ends = --left == 0;
    if (group_ends) left = group_channels;
    if (constant_B || group_ends) B += N;
    if (constant_C || group_ends) C += N;
  };
  for (int64_t c = 0; c < count; c++, advance()) {
    const auto step_c = hn::Set(d, step[c]), dtu_c = hn::Set(d, dtu[c]);
    auto sum = hn::Zero(d);
    if (HWY_UNLIKELY(pairs)) {
      // Real and imaginary parts alternate in the lanes.
      for (int64_t n = 0; n < N; n += kLanes) {
        const int64_t valid = N - n;
        const auto A_n = load_channels(d, A + n, valid), old = load_channels(d, state + n, valid);
        auto re = hn::DupEven(A_n);
        re = simd::ClampHigh(d, simd::ClampLow(d, re, T(-1e15)), T(1e15));
        hn::Vec<D> a, ai;
        pair_decay(exp, step_c, re, hn::DupOdd(A_n), a, ai);
        const auto moved = hn::MulAdd(a, old, hn::Mul(dtu_c, load_channels(d, B + n, valid)));
        const auto turned = hn::Mul(ai, hn::Reverse2(d, old));  // of (imaginary, real)
        const auto x = hn::OddEven(hn::Add(moved, turned), hn::Sub(moved, turned));
        store_channels(x, d, next + n, valid);
        const auto product = hn::Mul(x, load_channels(d, C + n, valid));
        sum = hn::OddEven(hn::Sub(sum, product), hn::Add(sum, product));
      }
      hn::Store(hn::Add(sum, sum), d, products + c * kLanes);
      continue;
    }
    const auto states = [&](int64_t n, auto load, auto store) HWY_ATTR {
      constexpr int64_t kAhead = kStepAheadBytes / static_cast<int64_t>(sizeof(T));
      hwy::Prefetch(state + n + kAhead);
      prefetch_for_writing(next + n + kAhead);
      const auto a = simd::ClampHigh(d, simd::ClampLow(d, load(A + n), T(-1e15)), T(1e15));
      const auto b_n = hn::Mul(dtu_c, load(B + n));
      const auto x = hn::MulAdd(exp(step_c, a), load(state + n), b_n);
      store(x, next + n);
      sum = hn::MulAdd(x, load(C + n), sum);
    };
    int64_t n = 0;
    for (; n + kLanes <= N; n += kLanes) {
      states(n, [&](const T* from) HWY_ATTR { return hn::LoadU(d, from); },
             [&](hn::Vec<D> v, T* to) HWY_ATTR { hn::StoreU(v, d, to); });
    }
    if (n < N) {
      states(n, [&](const T* from) HWY_ATTR { return load_channels(d, from, N - n); },
             [&](hn::Vec<D> v, T* to) HWY_ATTR { store_channels(v, d, to, N - n); });
    }
    hn::Store(sum, d, products + c * kLanes);
  }
  lane_sums(d, products, count, y);
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
