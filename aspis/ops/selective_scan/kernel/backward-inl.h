// Gradient of the scan for one instruction set. Included once per target by
// cpu.cc, after forward-inl.h.
//
// One task is one sample and one unit. Segments of 16 tokens go from last to
// first; each starts from its checkpoint. For a tile of a few states and one or
// two channel blocks the segment is run forward again, keeping a_t and x_t in an
// L1 scratch, and then swept backward with the adjoint state in registers:
//
//     lambda_t = C_t g_t + a_{t+1} lambda_{t+1};   m_t = a_t lambda_t
//     q = m_t x_{t-1} = lambda_t a_t x_{t-1}       (no division, exact to rounding)
//     dA += dt q;  ddt += A q;  sum_B += lambda B;  dB_t += lambda dt u;  dC_t += g x_t
//
// dB and dC are summed over the channel blocks of a unit as vectors and reduced
// over lanes once per segment. Units and samples are added at the end in a fixed
// order.

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {

// Vectors of one channel block, one row per token of the segment.
template <typename T>
struct BackwardRows {
  HWY_ALIGN T step[kSegment * kPanel];  // dt kScale
  HWY_ALIGN T dt[kSegment * kPanel];
  HWY_ALIGN T dtu[kSegment * kPanel];
  HWY_ALIGN T g[kSegment * kPanel];      // gradient of the output before the gate
  HWY_ALIGN T sum_B[kSegment * kPanel];  // sum_n lambda B
  HWY_ALIGN T sum_A[kSegment * kPanel];  // sum_n A q
  HWY_ALIGN T y[kSegment * kPanel];      // sum_n C x, only with a gate
  HWY_ALIGN T slope[kSegment * kPanel];  // d dt / d delta
  HWY_ALIGN T gz[kSegment * kPanel];     // dout silu'(z)
};

// One channel block during one segment. Panels point at the block's channel in
// row 0; the gradients of constant B and C are accumulated in panels too.
template <typename T>
struct BackwardBlock {
  int64_t channel = 0, valid = 0, panel = 0, offset = 0;  // offset of its first channel in the panel
  const T *A = nullptr, *B = nullptr, *C = nullptr, *x0 = nullptr;
  T *m = nullptr, *dA = nullptr, *dB = nullptr, *dC = nullptr;
  BackwardRows<T>* rows = nullptr;
};

// Vectors dB_t[n], dC_t[n] of one segment: {token, state, lane}. While `fresh`
// they hold nothing yet and count as zero, where masked loads cost nothing.
template <typename T>
struct LaneSums {
  T *B = nullptr, *C = nullptr;
  int64_t states = 0;
  bool fresh = false;
};

template <int kStates, int kBlocks, bool kGate, bool kConstB, bool kConstC, class D, class T = hn::TFromD<D>>
HWY_NOINLINE void backward_tile(const DecayExp<D>& decay, const TimeBlock<T>& time, int64_t n0,
                                const BackwardBlock<T>* blocks, const LaneSums<T>& sums) {
  using V = hn::Vec<D>;
  const D d;
  const LaneSums<T> lane_sums = sums;
  const auto filled = hn::FirstN(d, lane_sums.fresh ? 0 : hn::MaxLanes(d));
  const auto load_sums = [&](const T* p)
                             HWY_ATTR { return kManyRegisters ? hn::MaskedLoad(filled, d, p) : hn::Load(d, p); };
  constexpr int64_t kLanes = hn::MaxLanes(d);
  constexpr int64_t kRow = kBlocks * kStates * kLanes;
  constexpr bool kKeepX = kManyRegisters && kBlocks == 1;  // x_t of the sweep stays in registers
  HWY_ALIGN T kept_a[kSegment * kRow];
  HWY_ALIGN T kept_x[(kSegment + 1) * kRow];  // before each step, and after the last
  const int64_t p0 = n0 * kPanel;
  // Copies that no store can change.
  BackwardBlock<T> at[kBlocks];
  HWY_UNROLL(16) for (int k = 0; k < kBlocks; k++) {
    at[k] = blocks[k];
    at[k].A += p0, at[k].B += p0, at[k].C += p0;
  }
  V x[kBlocks][kStates];
  {
    const DecayExp<D> exp = decay;
    HWY_UNROLL(16) for (int k = 0; k < kBlocks; k++) {
      HWY_UNROLL(16) for (int n = 0; n < kStates; n++) x[k][n] = hn::LoadU(d, blocks[k].x0 + p0 + n * kPanel);
    }
    for (int64_t i = 0; i < time.count; i++) {
      T *a_row = kept_a + i * kRow, *x_row = kept_x + i * kRow;
      HWY_UNROLL(16) for (int k = 0; k < kBlocks; k++) {
        const T* B = opaque(kConstB ? at[k].B : time.B[i] + n0);
        const V step = hn::Load(d, at[k].rows->step + i * kLanes);
        const V dtu = hn::Load(d, at[k].rows->dtu + i * kLanes);
        V a[kStates];
        exp.template group<kStates>(step, opaque(at[k].A), kPanel, a);
        HWY_UNROLL(16) for (int n = 0; n < kStates; n++) {
          const V b = hn::Mul(dtu, matrix_value<kConstB>(d, B, n));
          hn::Store(a[n], d, a_row + (k * kStates + n) * kLanes);
          hn::Store(x[k][n], d, x_row + (k * kStates + n) * kLanes);
          x[k][n] = hn::MulAdd(a[n], x[k][n], b);
        }
      }
    }
    T* x_row = kept_x + time.count * kRow;
    HWY_UNROLL(16) for (int k = 0; k < kBlocks; k++) {
      HWY_UNROLL(16) for (int n = 0; n < kStates; n++) {
        if constexpr (!kKeepX) hn::Store(x[k][n], d, x_row + (k * kStates + n) * kLanes);
      }
    }
  }

  V m[kBlocks][kStates], dA[kBlocks][kStates], dB[kBlocks][kStates], dC[kBlocks][kStates];
  HWY_UNROLL(16) for (int k = 0; k < kBlocks; k++) {
    HWY_UNROLL(16) for (int n = 0; n < kStates; n++) {
      m[k][n] = hn::Load(d, blocks[k].m + p0 + n * kPanel);
      dA[k][n] = hn::Zero(d);
      if constexpr (kConstB) dB[k][n] = hn::Zero(d);
      if constexpr (kConstC) dC[k][n] = hn::Zero(d);
    }
  }
  for (int64_t i = time.count - 1; i >= 0; i--) {
    const T *a_row = kept_a + i * kRow, *x_row = kept_x + i * kRow;
    const T *B[kBlocks], *C[kBlocks], *A[kBlocks];
    T* lanes_B = opaque(lane_sums.B + (i * lane_sums.states + n0) * kLanes);
    T* lanes_C = opaque(lane_sums.C + (i * lane_sums.states + n0) * kLanes);
    V g[kBlocks], dt[kBlocks], dtu[kBlocks], sum_B[kBlocks], sum_A[kBlocks], y[kBlocks];
    HWY_UNROLL(16) for (int k = 0; k < kBlocks; k++) {
      const BackwardRows<T>& rows = *at[k].rows;
      B[k] = kConstB ? opaque(at[k].B) : k == 0 ? opaque(time.B[i] + n0) : B[0];
      C[k] = kConstC ? opaque(at[k].C) : k == 0 ? opaque(time.C[i] + n0) : C[0];
      A[k] = opaque(at[k].A);
      g[k] = hn::Load(d, rows.g + i * kLanes);
      dt[k] = hn::Load(d, rows.dt + i * kLanes);
      dtu[k] = hn::Load(d, rows.dtu + i * kLanes);
      sum_B[k] = sum_A[k] = y[k] = hn::Zero(d);
      if (n0 != 0) {
        sum_B[k] = hn::Load(d, rows.sum_B + i * kLanes);
        sum_A[k] = hn::Load(d, rows.sum_A + i * kLanes);
        if constexpr (kGate) y[k] = hn::Load(d, rows.y + i * kLanes);
      }
    }
    HWY_UNROLL(16) for (int n = 0; n < kStates; n++) {
      V lane_B, lane_C;
      if constexpr (!kConstB) lane_B = load_sums(lanes_B + n * kLanes);
      if constexpr (!kConstC) lane_C = load_sums(lanes_C + n * kLanes);
      HWY_UNROLL(16) for (int k = 0; k < kBlocks; k++) {
        const V b = matrix_value<kConstB>(d, B[k], n);
        const V c = matrix_value<kConstC>(d, C[k], n);
        const V x_before = hn::Load(d, x_row + (k * kStates + n) * kLanes);
        V x_after = x[k][n];
        if constexpr (kKeepX) {
          x[k][n] = x_before;
        } else {
          x_after = hn::Load(d, x_row + kRow + (k * kStates + n) * kLanes);
        }
        const V lambda = hn::MulAdd(g[k], c, m[k][n]);
        if constexpr (kConstC) {
          dC[k][n] = hn::MulAdd(g[k], x_after, dC[k][n]);
        } else {
          lane_C = hn::MulAdd(g[k], x_after, lane_C);
        }
        if constexpr (kConstB) {
          dB[k][n] = hn::MulAdd(lambda, dtu[k], dB[k][n]);
        } else {
          lane_B = hn::MulAdd(lambda, dtu[k], lane_B);
        }
        if constexpr (kGate) y[k] = hn::MulAdd(c, x_after, y[k]);
        sum_B[k] = hn::MulAdd(lambda, b, sum_B[k]);
        m[k][n] = hn::Mul(lambda, hn::Load(d, a_row + (k * kStates + n) * kLanes));
        const V q = hn::Mul(m[k][n], x_before);
        dA[k][n] = hn::MulAdd(dt[k], q, dA[k][n]);
        sum_A[k] = hn::MulAdd(q, hn::Load(d, A[k] + n * kPanel), sum_A[k]);
      }
      if constexpr (!kConstB) hn::Store(lane_B, d, lanes_B + n * kLanes);
      if constexpr (!kConstC) hn::Store(lane_C, d, lanes_C + n * kLanes);
    }
    HWY_UNROLL(16) for (int k = 0; k < kBlocks; k++) {
      BackwardRows<T>& rows = *at[k].rows;
      hn::Store(sum_B[k], d, rows.sum_B + i * kLanes);
      hn::Store(sum_A[k], d, rows.sum_A + i * kLanes);
      if constexpr (kGate) hn::Store(y[k], d, rows.y + i * kLanes);
    }
  }
  const auto add_to = [&](T* p, V v) HWY_ATTR { hn::Store(hn::Add(hn::Load(d, p), v), d, p); };
  HWY_UNROLL(16) for (int k = 0; k < kBlocks; k++) {
    HWY_UNROLL(16) for (int n = 0; n < kStates; n++) {
      hn::Store(m[k][n], d, blocks[k].m + p0 + n * kPanel);
      add_to(blocks[k].dA + p0 + n * kPanel, dA[k][n]);
      if constexpr (kConstB) add_to(blocks[k].dB + p0 + n * kPanel, dB[k][n]);
      if constexpr (kConstC) add_to(blocks[k].dC + p0 + n * kPanel, dC[k][n]);
    }
  }
}

// All states of one or two channel blocks.
template <int kBlocks, bool kConstB, bool kConstC, class D, class T = hn::TFromD<D>>
HWY_INLINE void backward_states(const DecayExp<D>& exp, const TimeBlock<T>& time, int64_t states, bool gate,
                                const BackwardBlock<T>* blocks, const LaneSums<T>& sums) {
  constexpr int kTile = kManyRegisters ? 4 : 2;
  int64_t n = 0;
  if constexpr (!kConstB && !kConstC) {
    for (; n + kTile <= states; n += kTile) {
      if (gate) {
        backward_tile<kTile, kBlocks, true, false, false, D>(exp, time, n, blocks, sums);
      } else {
        backward_tile<kTile, kBlocks, false, false, false, D>(exp, time, n, blocks, sums);
      }
    }
  }
  for (; n < states; n++) {
    backward_tile<1, kBlocks, true, kConstB, kConstC, D>(exp, time, n, blocks, sums);
  }
}

// The same for complex numbers, in pairs-inl.h.
template <bool kConstB, bool kConstC, class D, class T = hn::TFromD<D>>
void backward_pairs(const DecayExp<D>& exp, const TimeBlock<T>& time, int64_t values,
                    const BackwardBlock<T>& block, const LaneSums<T>& sums);

template <class D, class T = hn::TFromD<D>>
HWY_INLINE void backward_prologue(D d, const ScanVjpParams<T>& q, int64_t b, const TimeBlock<T>& time,
                                  const TimeBlock<T>& next, const BackwardBlock<T>& block) {
  constexpr int64_t kLanes = hn::MaxLanes(d);
  const ScanParams<T>& p = q.in;
  BackwardRows<T>& rows = *block.rows;
  const int64_t channel = block.channel, valid = block.valid;
  const auto zero = hn::Zero(d);
  const auto bias = p.delta_bias ? load_channels(d, p.delta_bias + channel, valid) : zero;
  using Math = TokenMath<D>;
  for (int64_t i = 0; i < time.count; i += Math::kTokens) {
    hn::Vec<D> value[Math::kTokens], slope[Math::kTokens];
    HWY_UNROLL(4) for (int k = 0; k < Math::kTokens; k++) {
      value[k] = hn::Add(load_channels(d, p.delta.row(b, time.token[i + k]) + channel, valid), bias);
    }
    if (p.softplus) Math::softplus_and_grad(value, slope);
    HWY_UNROLL(4) for (int k = 0; k < Math::kTokens; k++) {
      const int64_t at = (i + k) * kLanes;
      const auto u = load_channels(d, p.u.row(b, time.token[i + k]) + channel, valid);
      if (p.softplus) hn::Store(slope[k], d, rows.slope + at);
      hn::Store(clamp_step(d, value[k]), d, rows.step + at);
      hn::Store(value[k], d, rows.dt + at);
      hn::Store(hn::Mul(value[k], u), d, rows.dtu + at);
    }
    if (p.z) {
      HWY_UNROLL(4) for (int k = 0; k < Math::kTokens; k++) {
        value[k] = load_channels(d, p.z.row(b, time.token[i + k]) + channel, valid);
      }
      Math::silu_and_grad(value, slope);
    }
    HWY_UNROLL(4) for (int k = 0; k < Math::kTokens; k++) {
      const int64_t at = (i + k) * kLanes;
      auto g = load_channels(d, q.dout.row(b, time.token[i + k]) + channel, valid);
      if (p.z) {
        hn::Store(hn::Mul(g, slope[k]), d, rows.gz + at);
        g = hn::Mul(g, value[k]);
      }
      hn::Store(g, d, rows.g + at);
    }
  }
  for (int64_t i = 0; i < next.count; i++) {
    hwy::Prefetch(p.u.row(b, next.token[i]) + channel);
    hwy::Prefetch(p.delta.row(b, next.token[i]) + channel);
    hwy::Prefetch(q.dout.row(b, next.token[i]) + channel);
    if (p.z) hwy::Prefetch(p.z.row(b, next.token[i]) + channel);
  }
}

// `dD` and `dbias` are the block's lanes of the unit's sums.
template <class D, class T = hn::TFromD<D>>
HWY_INLINE void backward_epilogue(D d, const ScanVjpParams<T>& q, int64_t b, const TimeBlock<T>& time,
                                  const BackwardBlock<T>& block, T* dD, T* dbias) {
  constexpr int64_t kLanes = hn::MaxLanes(d);
  const ScanParams<T>& p = q.in;
  const BackwardRows<T>& rows = *block.rows;
  const int64_t channel = block.channel, valid = block.valid;
  const auto skip = p.D ? load_channels(d, p.D + channel, valid) : hn::Zero(d);
  auto sum_D = hn::Load(d, dD), sum_bias = hn::Load(d, dbias);
  for (int64_t i = time.count - 1; i >= 0; i--) {
    const int64_t t = time.token[i], at = i * kLanes;
    const auto u = load_channels(d, p.u.row(b, t) + channel, valid);
    const auto g = hn::Load(d, rows.g + at), sum_B = hn::Load(d, rows.sum_B + at);
    auto du = hn::Mul(hn::Load(d, rows.dt + at), sum_B);
    auto ddelta = hn::MulAdd(u, sum_B, hn::Load(d, rows.sum_A + at));
    if (p.softplus) ddelta = hn::Mul(ddelta, hn::Load(d, rows.slope + at));
    sum_bias = hn::Add(sum_bias, ddelta);
    if (p.D) {
      du = hn::MulAdd(skip, g, du);
      sum_D = hn::MulAdd(g, u, sum_D);
    }
    store_channels(du, d, q.du.row(b, t) + channel, valid);
    store_channels(ddelta, d, q.ddelta.row(b, t) + channel, valid);
    if (p.z) {
      auto y = hn::Load(d, rows.y + at);
      if (p.D) y = hn::MulAdd(skip, u, y);
      store_channels(hn::Mul(y, hn::Load(d, rows.gz + at)), d, q.dz.row(b, t) + channel, valid);
    }
  }
  hn::Store(sum_D, d, dD);
  hn::Store(sum_bias, d, dbias);
}

// Sums of the lanes of up to `count` vectors, in their order.
template <class D, class T = hn::TFromD<D>>
HWY_INLINE void lane_sums(D d, const T* vectors, int64_t count, T* sums) {
  constexpr int64_t kLanes = hn::MaxLanes(d);
  for (int64_t n = 0; n < count; n++) sums[n] = simd::LaneSum(d, hn::Load(d, vectors + n * kLanes));
}
#if HWY_TARGET == HWY_AVX3
// 16 vectors at a time by transposing and adding: 2 shuffles and an addition per
// vector, a third of what one sum after the other takes.
HWY_INLINE void lane_sums(hn::ScalableTag<float> d, const float* vectors, int64_t count, float* sums) {
  for (int64_t n = 0; n < count; n += 16, vectors += 256) {
    const int64_t valid = std::min<int64_t>(count - n, 16);
    __m512 v[4];
    for (int64_t i = 0; i < 4; i++) {
      __m512 row[4];
      for (int64_t k = 0; k < 4; k++) {
        row[k] = 4 * i + k < valid ? _mm512_load_ps(vectors + (4 * i + k) * 16) : _mm512_setzero_ps();
      }
      const __m512 r01 = _mm512_add_ps(_mm512_unpacklo_ps(row[0], row[1]), _mm512_unpackhi_ps(row[0], row[1]));
      const __m512 r23 = _mm512_add_ps(_mm512_unpacklo_ps(row[2], row[3]), _mm512_unpackhi_ps(row[2], row[3]));
      const __m512d a = _mm512_castps_pd(r01), b = _mm512_castps_pd(r23);
      v[i] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    }
    const auto add_blocks = [](__m512 a, __m512 b) HWY_ATTR {
      return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
    };
    const hn::Vec<hn::ScalableTag<float>> sum{add_blocks(add_blocks(v[0], v[1]), add_blocks(v[2], v[3]))};
    store_channels(sum, d, sums + n, valid);
  }
}
#endif

// Reduces the lanes of one segment into the unit's partial sums {L, N}.
template <class D, class T = hn::TFromD<D>>
HWY_INLINE void reduce_lanes(D d, const TimeBlock<T>& time, int64_t states, const T* lanes, T* partial) {
  constexpr int64_t kLanes = hn::MaxLanes(d);
  for (int64_t i = 0; i < time.count; i++) {
    lane_sums(d, lanes + i * states * kLanes, states, partial + time.token[i] * states);
  }
}

// Elements of scratch: panels of A, the adjoint, constant B and C; lane sums.
inline int64_t backward_scratch(const ScanShape& s, int64_t unit_panels) {
  return 4 * unit_panels * s.panel_size() + 2 * kSegment * s.panel_size();
}

template <class D, class T = hn::TFromD<D>>
class BackwardUnit {
 public:
  BackwardUnit(const ScanVjpParams<T>& q, const ScanVjpSums<T>& sums, const ScanWalk<T>& walk, int64_t part,
               int64_t index, T* scratch)
      : q_(q), walk_(walk), s_(q.in.shape), part_(part), unit_(unit_of(s_, index)) {
    const ScanParams<T>& p = q.in;
    const int64_t size = s_.panel_size(), all = unit_.count * size;
    A_ = scratch, m_ = A_ + all, B_ = m_ + all, C_ = B_ + all;
    lanes_ = {C_ + all, C_ + all + kSegment * size, s_.state, false};
    const int64_t first_panel = part * s_.panels() + unit_.panel(s_, 0);
    dA_ = sums.dA + first_panel * size;
    dD_ = sums.dD + first_panel * kPanel;
    dbias_ = sums.dbias + first_panel * kPanel;
    std::fill(dA_, dA_ + all, T(0));
    std::fill(dD_, dD_ + unit_.count * kPanel, T(0));
    std::fill(dbias_, dbias_ + unit_.count * kPanel, T(0));
    load_decay_panels(p, unit_, A_);
    const int64_t row = p.plan->runs[p.plan->parts[part]].row;
    const int64_t rows = (row * s_.groups * scan_units_per_group(s_) + index) * s_.length * s_.state;
    if (p.B.constant) {
      load_matrix_panels(s_, unit_, p.B.data, B_);
      dB_ = sums.dB + first_panel * size;
      std::fill(dB_, dB_ + all, T(0));
    } else {
      dB_ = sums.dB + rows;
    }
    if (p.C.constant) {
      load_matrix_panels(s_, unit_, p.C.data, C_);
      dC_ = sums.dC + first_panel * size;
      std::fill(dC_, dC_ + all, T(0));
    } else {
      dC_ = sums.dC + rows;
    }
  }

  void run() {
    const ScanPlan& plan = *q_.in.plan;
    for (int64_t i = plan.parts[part_ + 1] - 1; i >= plan.parts[part_]; i--) {
      const ScanRun& run = plan.runs[i];
      if (run.padding) {
        clear(run);
      } else {
        start(run, i);
        sweep(run);
        finish(run);
      }
    }
  }

 private:
  static constexpr D d_{};
  static constexpr int64_t kLanes = hn::MaxLanes(D());

  // Padding: zeros for this unit's channels and in its sums.
  void clear(const ScanRun& run) {
    const ScanParams<T>& p = q_.in;
    for (const auto* rows : {&q_.du, &q_.ddelta, &q_.dz}) clear_rows(p, run, unit_, *rows);
    for (int64_t i = 0; i < run.length; i++) {
      const int64_t t = scan_token(p, run, run.first + i);
      if (!p.B.constant) std::fill_n(dB_ + t * s_.state, s_.state, T(0));
      if (!p.C.constant) std::fill_n(dC_ + t * s_.state, s_.state, T(0));
    }
  }

  // The adjoint behind the last step of a run.
  void start(const ScanRun& run, int64_t number) {
    const int64_t size = unit_.count * s_.panel_size();
    if (walk_.starts) {
      const T* from = walk_.starts + (number * s_.panels() + unit_.panel(s_, 0)) * s_.panel_size();
      std::copy(from, from + size, m_);
    } else if (q_.dlast_state && run.last >= 0) {
      load_matrix_panels(s_, unit_, q_.dlast_state + run.last * s_.channels * s_.state, m_);
    } else {
      std::fill(m_, m_ + size, T(0));
    }
  }

  void finish(const ScanRun& run) {
    if (!q_.dinitial_state || run.initial < 0) return;
    for (int64_t i = 0; i < unit_.count; i++) {
      T* rows = q_.dinitial_state + (run.initial * s_.channels + unit_.channel(s_, i)) * s_.state;
      from_panel(m_ + i * s_.panel_size(), unit_.channels(s_, i), s_.state, rows);
    }
  }

  void sweep(const ScanRun& run) {
    const ScanParams<T>& p = q_.in;
    const int64_t N = s_.state;
    TimeBlock<T> time, next;
    fill_time_block(p, run, unit_.group, (run.segments() - 1) * kSegment, &time);
    for (int64_t segment = run.segments() - 1; segment >= 0; segment--) {
      next.count = 0;
      if (segment > 0) fill_time_block(p, run, unit_.group, (segment - 1) * kSegment, &next);
      if constexpr (kManyRegisters) {
        lanes_.fresh = true;
      } else {
        std::fill(lanes_.B, lanes_.B + kSegment * N * kLanes, T(0));
        std::fill(lanes_.C, lanes_.C + kSegment * N * kLanes, T(0));
      }
      row_ = run.row;
      run_segment(run.slot + segment, time, next);
      if (!p.B.constant) reduce_lanes(d_, time, N, lanes_.B, dB_);
      if (!p.C.constant) reduce_lanes(d_, time, N, lanes_.C, dC_);
      time = next;
    }
  }

  void run_segment(int64_t segment, const TimeBlock<T>& time, const TimeBlock<T>& next) {
    // One block at a time keeps all sums in registers and everything in L1; with many states the lane sums do not
    // fit there, and two blocks halve their traffic.
    const int step = kManyRegisters && s_.state <= 32 ? 1 : 2;
    BackwardBlock<T> pair[2];
    int count = 0;
    for (int64_t i = 0; i < unit_.count; i++) {
      for (int64_t c = 0; c < unit_.channels(s_, i); c += kLanes) {
        pair[count] = block(segment, i, c);
        pair[count].rows = &rows_[count];
        if (++count == step) {
          if (count == 1) run_blocks<1>(time, next, pair);
          if (count == 2) run_blocks<2>(time, next, pair);
          count = 0;
        }
      }
    }
    if (count == 1) run_blocks<1>(time, next, pair);
  }

  BackwardBlock<T> block(int64_t segment, int64_t i, int64_t c) const {
    BackwardBlock<T> k;
    const int64_t size = s_.panel_size(), at = i * size + c;
    k.channel = unit_.channel(s_, i) + c;
    k.valid = unit_.channels(s_, i) - c;
    k.panel = i;
    k.offset = c;
    k.A = A_ + at;
    k.B = B_ + at;
    k.C = C_ + at;
    k.x0 = q_.in.checkpoints + (segment * s_.panels() + unit_.panel(s_, i)) * size + c;
    k.m = m_ + at;
    k.dA = dA_ + at;
    k.dB = dB_ + at;
    k.dC = dC_ + at;
    return k;
  }

  template <int kBlocks>
  void run_blocks(const TimeBlock<T>& time, const TimeBlock<T>& next, const BackwardBlock<T>* blocks) {
    for (int k = 0; k < kBlocks; k++) backward_prologue(d_, q_, row_, time, next, blocks[k]);
    const ScanParams<T>& p = q_.in;
    const bool gate = static_cast<bool>(p.z);
    const int64_t N = s_.state;
    if (HWY_UNLIKELY(p.pairs)) {
      for (int k = 0; k < kBlocks; k++) {
        if (!p.B.constant && !p.C.constant) {
          backward_pairs<false, false, D>(exp_, time, N, blocks[k], lanes_);
        } else if (!p.B.constant) {
          backward_pairs<false, true, D>(exp_, time, N, blocks[k], lanes_);
        } else if (!p.C.constant) {
          backward_pairs<true, false, D>(exp_, time, N, blocks[k], lanes_);
        } else {
          backward_pairs<true, true, D>(exp_, time, N, blocks[k], lanes_);
        }
        lanes_.fresh = false;
      }
    } else if (HWY_LIKELY(!p.B.constant && !p.C.constant)) {
      backward_states<kBlocks, false, false, D>(exp_, time, N, gate, blocks, lanes_);
    } else {
      for (int k = 0; k < kBlocks; k++) {
        if (!p.B.constant) {
          backward_states<1, false, true, D>(exp_, time, N, gate, blocks + k, lanes_);
        } else if (!p.C.constant) {
          backward_states<1, true, false, D>(exp_, time, N, gate, blocks + k, lanes_);
        } else {
          backward_states<1, true, true, D>(exp_, time, N, gate, blocks + k, lanes_);
        }
        lanes_.fresh = false;
      }
    }
    lanes_.fresh = false;
    for (int k = 0; k < kBlocks; k++) {
      const int64_t at = blocks[k].panel * kPanel + blocks[k].offset;
      backward_epilogue(d_, q_, row_, time, blocks[k], dD_ + at, dbias_ + at);
    }
  }

  const ScanVjpParams<T>& q_;
  const ScanWalk<T>& walk_;
  const ScanShape& s_;
  const int64_t part_;
  int64_t row_ = 0;
  const Unit unit_;
  const DecayExp<D> exp_{};
  T *A_, *m_, *B_, *C_, *dA_, *dB_, *dC_, *dD_, *dbias_;
  LaneSums<T> lanes_;
  BackwardRows<T> rows_[2];
};

// The adjoint of one run that nothing follows, before its first step: the state of
// a scan over the reversed steps, lambda_t = a_{t+1} lambda_{t+1} + g_t C_t, and
// a_first lambda_first at its end.
template <class D, class T = hn::TFromD<D>>
class AdjointUnit {
 public:
  AdjointUnit(const ScanVjpParams<T>& q, const ScanWalk<T>& walk, int64_t index, T* scratch)
      : q_(q), walk_(walk), s_(q.in.shape), unit_(unit_of(s_, index)) {
    const int64_t all = unit_.count * s_.panel_size();
    A_ = scratch, lambda_ = A_ + all, C_ = lambda_ + all;
    load_decay_panels(q.in, unit_, A_);
    if (q.in.C.constant) load_matrix_panels(s_, unit_, q.in.C.data, C_);
  }

  void run(const ScanRun& run, int64_t number) {
    const ScanParams<T>& p = q_.in;
    const int64_t size = s_.panel_size();
    T* end = walk_.ends + (number * s_.panels() + unit_.panel(s_, 0)) * size;
    std::fill(lambda_, lambda_ + unit_.count * size, T(0));
    std::fill(later_, later_ + kScanMostUnitPanels * kPanel, T(0));
    TimeBlock<T> time, next;
    fill_time_block(p, run, unit_.group, (run.segments() - 1) * kSegment, &time);
    for (int64_t segment = run.segments() - 1; segment >= 0; segment--) {
      next.count = 0;
      if (segment > 0) fill_time_block(p, run, unit_.group, (segment - 1) * kSegment, &next);
      run_segment(run.row, time, next);
      time = next;
    }
    for (int64_t i = 0; i < unit_.count; i++) {
      for (int64_t c = 0; c < kPanel; c += kLanes) {
        const auto step = hn::LoadU(d_, later_ + i * kPanel + c);
        for (int64_t n = 0; n < s_.state; n++) {
          const int64_t at = i * size + n * kPanel + c;
          hn::StoreU(hn::Mul(exp_(step, hn::LoadU(d_, A_ + at)), hn::LoadU(d_, lambda_ + at)), d_, end + at);
        }
      }
    }
  }

 private:
  static constexpr D d_{};
  static constexpr int64_t kLanes = hn::MaxLanes(D());

  void run_segment(int64_t row, const TimeBlock<T>& time, const TimeBlock<T>& next) {
    const int64_t N = s_.state, size = s_.panel_size(), last = time.count - 1;
    TimeBlock<T> back;
    back.count = time.count;
    for (int64_t i = 0; i < time.count; i++) back.B[i] = back.C[i] = time.C[last - i];
    for (int64_t k = 0; k < unit_.count; k++) {
      for (int64_t c = 0; c < unit_.channels(s_, k); c += kLanes) {
        BackwardBlock<T> block;
        block.channel = unit_.channel(s_, k) + c;
        block.valid = unit_.channels(s_, k) - c;
        block.rows = &backward_;
        backward_prologue(d_, q_, row, time, next, block);
        T* later = later_ + k * kPanel + c;
        for (int64_t i = 0; i < time.count; i++) {
          const auto step = i == 0 ? hn::LoadU(d_, later) : hn::Load(d_, backward_.step + (last - i + 1) * kLanes);
          hn::Store(step, d_, rows_.step + i * kLanes);
          hn::Store(hn::Load(d_, backward_.g + (last - i) * kLanes), d_, rows_.dtu + i * kLanes);
        }
        hn::StoreU(hn::Load(d_, backward_.step), d_, later);
        const int64_t at = k * size + c;
        if (q_.in.C.constant) {
          forward_states<true, true, D>(exp_, back, N, A_ + at, lambda_ + at, C_ + at, C_ + at, &rows_);
        } else {
          forward_states<false, false, D>(exp_, back, N, A_ + at, lambda_ + at, C_ + at, C_ + at, &rows_);
        }
      }
    }
  }

  const ScanVjpParams<T>& q_;
  const ScanWalk<T>& walk_;
  const ScanShape& s_;
  const Unit unit_;
  const DecayExp<D> exp_{};
  T *A_, *lambda_, *C_;
  HWY_ALIGN T later_[kScanMostUnitPanels * kPanel];  // dt kScale of the step behind the block
  ForwardRows<T> rows_;
  BackwardRows<T> backward_;
};

void backward_unit_f32(const ScanVjpParams<float>& q, const ScanVjpSums<float>& sums, const ScanWalk<float>& walk,
                       int64_t part, int64_t unit, float* scratch) {
  BackwardUnit<hn::ScalableTag<float>>(q, sums, walk, part, unit, scratch).run();
}
void backward_unit_f64(const ScanVjpParams<double>& q, const ScanVjpSums<double>& sums,
                       const ScanWalk<double>& walk, int64_t part, int64_t unit, double* scratch) {
  BackwardUnit<hn::ScalableTag<double>>(q, sums, walk, part, unit, scratch).run();
}
void adjoint_unit_f32(const ScanVjpParams<float>& q, const ScanWalk<float>& walk, int64_t run, int64_t unit,
                      float* scratch) {
  AdjointUnit<hn::ScalableTag<float>>(q, walk, unit, scratch).run(q.in.plan->runs[run], run);
}
void adjoint_unit_f64(const ScanVjpParams<double>& q, const ScanWalk<double>& walk, int64_t run, int64_t unit,
                      double* scratch) {
  AdjointUnit<hn::ScalableTag<double>>(q, walk, unit, scratch).run(q.in.plan->runs[run], run);
}

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
