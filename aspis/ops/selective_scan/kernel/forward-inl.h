// Forward scan for one instruction set. Included once per target by cpu.cc.
//
// One task is one sample and one unit of panels of 16 channels. Time goes in
// blocks of 16 tokens outside, channel blocks (one vector of channels) inside,
// tokens inside that, so that the rows of a block stay in L1 and in few pages.
// A tile of up to 8 states of one channel block lives in registers for the
// whole block; A is a panel {N, 16} in L1, B_t[n] and C_t[n] are broadcast from
// memory, and no lane sum is needed. What depends on (token, channel) alone -
// softplus, dt u, the gate - is done once for all states, before and after.

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {

// Vectors of one channel block, one row per token of the time block.
template <typename T>
struct ForwardRows {
  HWY_ALIGN T step[kSegment * kPanel];  // dt kScale
  HWY_ALIGN T dtu[kSegment * kPanel];   // dt u
  HWY_ALIGN T y[kSegment * kPanel];     // sum_n C x
};

// State n of a constant B or C is a vector of channels of the panel at p; else
// B_t[n] is one number of the row at p.
template <bool kConstant, class D, class T = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> matrix_value(D d, const T* p, int64_t n) {
  if constexpr (kConstant) {
    return hn::Load(d, p + n * kPanel);
  } else {
    return hn::Set(d, p[n]);
  }
}

// Runs states [n0, n0 + kStates) over the time block. `A`, `state`, `B_panel`
// and `C_panel` point at the block's channel within row 0 of their panel.
template <int kStates, bool kConstB, bool kConstC, class D, class T = hn::TFromD<D>>
HWY_NOINLINE void forward_tile(const DecayExp<D>& decay, const TimeBlock<T>& time, int64_t n0, const T* A,
                               T* state, const T* B_panel, const T* C_panel, ForwardRows<T>* rows) {
  using V = hn::Vec<D>;
  const D d;
  const DecayExp<D> exp = decay;
  constexpr int64_t kLanes = hn::MaxLanes(d);
  constexpr int kGroup = kStates < kExpGroup ? kStates : kExpGroup;
  A += n0 * kPanel;
  state += n0 * kPanel;
  B_panel += n0 * kPanel;
  C_panel += n0 * kPanel;
  V x[kStates];
  HWY_UNROLL(16) for (int n = 0; n < kStates; n++) x[n] = hn::Load(d, state + n * kPanel);
  for (int64_t i = 0; i < time.count; i++) {
    const V step = hn::Load(d, rows->step + i * kLanes);
    const V dtu = hn::Load(d, rows->dtu + i * kLanes);
    const T* B = opaque(kConstB ? B_panel : time.B[i] + n0);
    const T* C = opaque(kConstC ? C_panel : time.C[i] + n0);
    const T* A_now = opaque(A);
    V y = hn::Zero(d);
    if (n0 != 0) y = hn::Load(d, rows->y + i * kLanes);
    HWY_UNROLL(16) for (int n = 0; n < kStates; n += kGroup) {
      V a[kGroup];
      exp.template group<kGroup>(step, A_now + n * kPanel, kPanel, a);
      HWY_UNROLL(8) for (int k = 0; k < kGroup; k++) {
        const V b = hn::Mul(dtu, matrix_value<kConstB>(d, B, n + k));
        x[n + k] = hn::MulAdd(a[k], x[n + k], b);
      }
      HWY_UNROLL(8) for (int k = 0; k < kGroup; k++) {
        y = hn::MulAdd(x[n + k], matrix_value<kConstC>(d, C, n + k), y);
      }
    }
    hn::Store(y, d, rows->y + i * kLanes);
  }
  HWY_UNROLL(16) for (int n = 0; n < kStates; n++) hn::Store(x[n], d, state + n * kPanel);
}

template <bool kConstB, bool kConstC, class D, class T = hn::TFromD<D>>
HWY_INLINE void forward_states(const DecayExp<D>& exp, const TimeBlock<T>& time, int64_t states, const T* A,
                               T* state, const T* B_panel, const T* C_panel, ForwardRows<T>* rows) {
  // Constant matrices are rare: two tile sizes keep the code small.
  constexpr bool kAllSizes = !kConstB && !kConstC;
  constexpr int kLargest = kAllSizes ? 8 : 4;
  int64_t n = 0;
  for (; n + kLargest <= states; n += kLargest) {
    forward_tile<kLargest, kConstB, kConstC, D>(exp, time, n, A, state, B_panel, C_panel, rows);
  }
  if constexpr (kAllSizes) {
    if (states - n >= 4) {
      forward_tile<4, kConstB, kConstC, D>(exp, time, n, A, state, B_panel, C_panel, rows);
      n += 4;
    }
    if (states - n >= 2) {
      forward_tile<2, kConstB, kConstC, D>(exp, time, n, A, state, B_panel, C_panel, rows);
      n += 2;
    }
  }
  for (; n < states; n++) {
    forward_tile<1, kConstB, kConstC, D>(exp, time, n, A, state, B_panel, C_panel, rows);
  }
}

// The same for complex numbers, in pairs-inl.h.
template <bool kConstB, bool kConstC, class D, class T = hn::TFromD<D>>
void forward_pairs(const DecayExp<D>& exp, const TimeBlock<T>& time, int64_t values, const T* A, T* state,
                   const T* B_panel, const T* C_panel, ForwardRows<T>* rows);

// A line that will be written whole still has to be owned first.
template <typename T>
HWY_INLINE void prefetch_for_writing(const T* p) {
#if HWY_COMPILER_GCC || HWY_COMPILER_CLANG
  __builtin_prefetch(p, 1);
#endif
}

// dt and dt u of one channel block. The next time block's rows are prefetched:
// the hardware does not follow 64-byte pieces that are a row apart.
template <class D, class T = hn::TFromD<D>>
HWY_INLINE void forward_prologue(D d, const ScanParams<T>& p, int64_t b, const TimeBlock<T>& time,
                                 const TimeBlock<T>& next, int64_t channel, int64_t valid, ForwardRows<T>* rows) {
  constexpr int64_t kLanes = hn::MaxLanes(d);
  using Math = TokenMath<D>;
  const auto bias = p.delta_bias ? load_channels(d, p.delta_bias + channel, valid) : hn::Zero(d);
  for (int64_t i = 0; i < time.count; i += Math::kTokens) {
    hn::Vec<D> dt[Math::kTokens];
    HWY_UNROLL(4) for (int k = 0; k < Math::kTokens; k++) {
      dt[k] = hn::Add(load_channels(d, p.delta.row(b, time.token[i + k]) + channel, valid), bias);
    }
    if (p.softplus) Math::softplus(dt);
    HWY_UNROLL(4) for (int k = 0; k < Math::kTokens; k++) {
      const auto u = load_channels(d, p.u.row(b, time.token[i + k]) + channel, valid);
      hn::Store(clamp_step(d, dt[k]), d, rows->step + (i + k) * kLanes);
      hn::Store(hn::Mul(dt[k], u), d, rows->dtu + (i + k) * kLanes);
    }
  }
  for (int64_t i = 0; i < next.count; i++) {
    hwy::Prefetch(p.u.row(b, next.token[i]) + channel);
    hwy::Prefetch(p.delta.row(b, next.token[i]) + channel);
    if (p.z) hwy::Prefetch(p.z.row(b, next.token[i]) + channel);
    if (p.out) prefetch_for_writing(p.out.row(b, next.token[i]) + channel);
  }
}

template <class D, class T = hn::TFromD<D>>
HWY_INLINE void forward_epilogue(D d, const ScanParams<T>& p, int64_t b, const TimeBlock<T>& time, int64_t channel,
                                 int64_t valid, const ForwardRows<T>& rows) {
  constexpr int64_t kLanes = hn::MaxLanes(d);
  const auto skip = p.D ? load_channels(d, p.D + channel, valid) : hn::Zero(d);
  using Math = TokenMath<D>;
  for (int64_t i = 0; i < time.count; i += Math::kTokens) {
    hn::Vec<D> z[Math::kTokens];
    if (p.z) {
      HWY_UNROLL(4) for (int k = 0; k < Math::kTokens; k++) {
        z[k] = load_channels(d, p.z.row(b, time.token[i + k]) + channel, valid);
      }
      Math::silu(z);
    }
    HWY_UNROLL(4) for (int k = 0; k < Math::kTokens; k++) {
      if (i + k >= time.count) break;
      const int64_t t = time.token[i + k];
      auto y = hn::Load(d, rows.y + (i + k) * kLanes);
      if (p.D) y = hn::MulAdd(skip, load_channels(d, p.u.row(b, t) + channel, valid), y);
      if (p.z) y = hn::Mul(y, z[k]);
      store_channels(y, d, p.out.row(b, t) + channel, valid);
    }
  }
}

// Elements of scratch that a worker needs for the panels of one unit: A, state,
// constant B and C.
inline int64_t forward_scratch(const ScanShape& s, int64_t unit_panels) {
  return 4 * unit_panels * s.panel_size();
}

// The runs of one part for the channels of unit `index`.
template <class D, class T = hn::TFromD<D>>
class ForwardUnit {
 public:
  ForwardUnit(const ScanParams<T>& p, const ScanWalk<T>& walk, int64_t index, T* scratch)
      : p_(p), walk_(walk), s_(p.shape), unit_(unit_of(s_, index)) {
    const int64_t all = unit_.count * s_.panel_size();
    A_ = scratch, state_ = A_ + all, B_ = state_ + all, C_ = B_ + all;
    load_decay_panels(p, unit_, A_);
    if (p.B.constant) load_matrix_panels(s_, unit_, p.B.data, B_);
    if (p.C.constant) load_matrix_panels(s_, unit_, p.C.data, C_);
  }

  void run(int64_t part) {
    const ScanPlan& plan = *p_.plan;
    for (int64_t i = plan.parts[part]; i < plan.parts[part + 1]; i++) run_one(plan.runs[i], i);
  }

 private:
  static constexpr D d_{};
  static constexpr int64_t kLanes = hn::MaxLanes(D());

  void run_one(const ScanRun& run, int64_t number) {
    if (run.padding) {
      clear_rows(p_, run, unit_, p_.out);
      return;
    }
    start(run, number);
    if (walk_.step_sums) std::fill(sums(number), sums(number) + unit_.count * kPanel, T(0));
    TimeBlock<T> time, next;
    fill_time_block(p_, run, unit_.group, 0, &time);
    for (int64_t first = 0; first < run.length; first += kSegment) {
      fill_time_block(p_, run, unit_.group, first + kSegment, &next);
      run_segment(run, number, first / kSegment, time, next);
      time = next;
    }
    finish(run, number);
  }

  // The state of this unit before a run.
  void start(const ScanRun& run, int64_t number) {
    const int64_t size = unit_.count * s_.panel_size();
    if (walk_.starts) {
      const T* from = walk_.starts + (number * s_.panels() + unit_.panel(s_, 0)) * s_.panel_size();
      std::copy(from, from + size, state_);
    } else if (p_.initial_state && run.initial >= 0 && !walk_.ends) {
      load_matrix_panels(s_, unit_, p_.initial_state + run.initial * s_.channels * s_.state, state_);
    } else {
      std::fill(state_, state_ + size, T(0));
    }
  }

  void finish(const ScanRun& run, int64_t number) {
    const int64_t size = s_.panel_size();
    if (walk_.ends) {
      T* to = walk_.ends + (number * s_.panels() + unit_.panel(s_, 0)) * size;
      std::copy(state_, state_ + unit_.count * size, to);
      return;
    }
    if (!p_.last_state || run.last < 0) return;
    for (int64_t i = 0; i < unit_.count; i++) {
      from_panel(state_ + i * size, unit_.channels(s_, i), s_.state,
                 p_.last_state + (run.last * s_.channels + unit_.channel(s_, i)) * s_.state);
    }
  }

  void run_segment(const ScanRun& run, int64_t number, int64_t segment, const TimeBlock<T>& time,
                   const TimeBlock<T>& next) {
    const int64_t size = s_.panel_size(), N = s_.state, b = run.row;
    for (int64_t i = 0; i < unit_.count; i++) {
      if (p_.checkpoints && !walk_.ends) {
        std::memcpy(p_.checkpoints + ((run.slot + segment) * s_.panels() + unit_.panel(s_, i)) * size,
                    state_ + i * size, size * sizeof(T));
      }
      const int64_t channels = unit_.channels(s_, i);
      for (int64_t c = 0; c < channels; c += kLanes) {
        const int64_t channel = unit_.channel(s_, i) + c, valid = channels - c, at = i * size + c;
        forward_prologue(d_, p_, b, time, next, channel, valid, &rows_);
        if (walk_.step_sums) add_steps(time, sums(number) + i * kPanel + c);
        const auto states = [&](auto const_b, auto const_c) HWY_ATTR {
          constexpr bool kConstB = decltype(const_b)::value, kConstC = decltype(const_c)::value;
          if (HWY_UNLIKELY(p_.pairs)) {
            forward_pairs<kConstB, kConstC, D>(exp_, time, N, A_ + at, state_ + at, B_ + at, C_ + at, &rows_);
          } else {
            forward_states<kConstB, kConstC, D>(exp_, time, N, A_ + at, state_ + at, B_ + at, C_ + at, &rows_);
          }
        };
        if (HWY_LIKELY(!p_.B.constant && !p_.C.constant)) {
          states(std::false_type(), std::false_type());
        } else if (!p_.B.constant) {
          states(std::false_type(), std::true_type());
        } else if (!p_.C.constant) {
          states(std::true_type(), std::false_type());
        } else {
          states(std::true_type(), std::true_type());
        }
        if (p_.out && !walk_.ends) forward_epilogue(d_, p_, b, time, channel, valid, rows_);
      }
    }
  }

  T* sums(int64_t number) { return walk_.step_sums + (number * s_.panels() + unit_.panel(s_, 0)) * kPanel; }

  // Sum of dt kScale over the tokens of a block.
  HWY_INLINE void add_steps(const TimeBlock<T>& time, T* sum) {
    auto v = hn::LoadU(d_, sum);
    for (int64_t i = 0; i < time.count; i++) v = hn::Add(v, hn::Load(d_, rows_.step + i * kLanes));
    hn::StoreU(v, d_, sum);
  }

  const ScanParams<T>& p_;
  const ScanWalk<T>& walk_;
  const ScanShape& s_;
  const Unit unit_;
  const DecayExp<D> exp_{};
  T *A_, *state_, *B_, *C_;
  ForwardRows<T> rows_;
};

void forward_unit_f32(const ScanParams<float>& p, const ScanWalk<float>& walk, int64_t part, int64_t unit,
                      float* scratch) {
  ForwardUnit<hn::ScalableTag<float>>(p, walk, unit, scratch).run(part);
}
void forward_unit_f64(const ScanParams<double>& p, const ScanWalk<double>& walk, int64_t part, int64_t unit,
                      double* scratch) {
  ForwardUnit<hn::ScalableTag<double>>(p, walk, unit, scratch).run(part);
}

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
