// Shared by the scan kernels of one instruction set: the exponential of the
// decay, panels, and how the channels are cut into blocks. Included once per
// target by cpu.cc.

#include <algorithm>
#include <cstring>

#include "aspis/simd/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

inline constexpr int64_t kPanel = kScanPanel, kSegment = kScanSegment;

// Vector registers: what can be kept live in the inner loops.
#if HWY_TARGET == HWY_AVX3
inline constexpr int kManyRegisters = 1;
inline constexpr int kExpGroup = 4;  // exponentials computed side by side
#else
inline constexpr int kManyRegisters = 0;
inline constexpr int kExpGroup = 1;
#endif

// a = exp(dt A) for any sign of A: +inf above the range, 0 below, NaN for NaN. Takes dt kScale, so that the change
// of base costs one multiplication per (token, channel) and not one per state. dt kScale must be clamped by
// clamp_step, A by clamp_decay.
//
// Double and the general float form. Float: 2^x, x = n + r, |r| <= 1/2, by a
// minimax polynomial of degree 5 (8e-8) with p(0) = 1; its slope at 0 is right
// to 3e-7, which matters because a state that decays slowly sums 1 / (1 - a)
// tokens.
template <class D, class V = hn::Vec<D>>
struct DecayExp {
  using T = hn::TFromD<D>;
  static constexpr T kScale = simd::kIsF32<D> ? T(1.44269504088896341) : T(1);

  HWY_INLINE V operator()(V step, V a) const {
    const D d;
    const V x = hn::Mul(step, a);
    if constexpr (simd::kIsF32<D>) {
      const hn::RebindToSigned<D> di;
      const V magic = hn::Set(d, T(12582912));  // 1.5 2^23: adding it rounds to an integer
      const V clamped = simd::ClampHigh(d, simd::ClampLow(d, x, T(-126)), T(128));
      const V shifted = hn::Add(clamped, magic);
      const V r = hn::Sub(clamped, hn::Sub(shifted, magic));
      const V p = simd::Poly(d, r, 1.0, 0.6931469774924383842, 0.240222419340534098, 0.05550733853061467766,
                             0.009671522730996114939, 0.001326471840944324206);
      const V a_t = hn::BitCast(d, hn::Add(hn::BitCast(di, p), hn::ShiftLeft<23>(hn::BitCast(di, shifted))));
      return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, T(-126))), a_t);
    } else {
      return simd::Exp(d, x);
    }
  }

  // The same for kCount values of A, `stride` elements apart.
  template <int kCount>
  HWY_INLINE void group(V step, const T* a, int64_t stride, V* out) const {
    const D d;
    HWY_UNROLL(8) for (int i = 0; i < kCount; i++) out[i] = (*this)(step, hn::Load(d, a + i * stride));
  }
};

#if HWY_TARGET == HWY_AVX3
// AVX-512 float: x = n + j/16 + f, |f| <= 1/32. 2^(j/16) is one permutation of a
// register, 2^f a polynomial of degree 3 (error 2e-9, exact slope at 0), and
// scalef puts 2^n on it with every special case. 5 multiplications and 3
// additions where the plain degree-5 form takes 6 and 2: the multiplier pipes
// are the bottleneck of the scan.
template <>
struct DecayExp<hn::ScalableTag<float>> {
  using V = hn::Vec<hn::ScalableTag<float>>;
  static constexpr float kScale = 1.44269504088896341f;

  HWY_INLINE DecayExp() {
    roots = _mm512_setr_ps(1.0f, 1.04427378f, 1.09050773f, 1.13878863f, 1.18920712f, 1.24185781f, 1.29683955f,
                           1.35425555f, 1.41421356f, 1.47682615f, 1.54221083f, 1.61049033f, 1.68179283f,
                           1.75625216f, 1.83400809f, 1.91520656f);  // 2^(j/16)
    magic = _mm512_set1_ps(786432.0f);  // 1.5 2^19: adding it rounds to a multiple of 1/16
    // 2^f = 1 + f (c1 + f (c2 + f c3)): ln2, ln2^2 (1/2 + h^2/24), ln2^3/6 with h = ln2/32.
    c1 = _mm512_set1_ps(0.69314718f);
    c2 = _mm512_set1_ps(0.24023590f);
    c3 = _mm512_set1_ps(0.05550411f);
  }
  HWY_INLINE V operator()(V step, V a) const {
    __m512 x = _mm512_mul_ps(step.raw, a.raw);
    // Keeps the compiler from contracting the additions below into
    // multiply-adds, which would move work back to the multiplier pipes.
    asm("" : "+v"(x));
    const __m512 shifted = _mm512_add_ps(x, magic);
    const __m512 n = _mm512_sub_ps(shifted, magic);
    const __m512 f = _mm512_sub_ps(x, n);
    const __m512 root = _mm512_permutexvar_ps(_mm512_castps_si512(shifted), roots);
    const __m512 q = _mm512_fmadd_ps(_mm512_fmadd_ps(c3, f, c2), f, c1);
    const __m512 p = _mm512_fmadd_ps(_mm512_mul_ps(root, f), q, root);
    return V{_mm512_scalef_ps(p, n)};
  }

  // kCount exponentials stage by stage. One of them is a chain of some 40 cycles
  // and the scheduler of the processor sees about 64 instructions, four chains
  // that follow each other: too few to fill the pipes. The empty asm statements
  // keep the compiler from putting the chains one behind the other again.
  template <int kCount>
  HWY_INLINE void group(V step, const float* a, int64_t stride, V* out) const {
    __m512 x[kCount], n[kCount], root[kCount], q[kCount];
    const auto stage = [](__m512* v) HWY_ATTR {
      HWY_UNROLL(8) for (int i = 0; i < kCount; i++) asm volatile("" : "+v"(v[i]));
    };
    HWY_UNROLL(8) for (int i = 0; i < kCount; i++) x[i] = _mm512_mul_ps(step.raw, _mm512_load_ps(a + i * stride));
    stage(x);
    HWY_UNROLL(8) for (int i = 0; i < kCount; i++) n[i] = _mm512_add_ps(x[i], magic);
    stage(n);
    HWY_UNROLL(8)
    for (int i = 0; i < kCount; i++) root[i] = _mm512_permutexvar_ps(_mm512_castps_si512(n[i]), roots);
    stage(root);
    HWY_UNROLL(8) for (int i = 0; i < kCount; i++) n[i] = _mm512_sub_ps(n[i], magic);
    stage(n);
    HWY_UNROLL(8) for (int i = 0; i < kCount; i++) x[i] = _mm512_sub_ps(x[i], n[i]);
    stage(x);
    HWY_UNROLL(8) for (int i = 0; i < kCount; i++) q[i] = _mm512_fmadd_ps(c3, x[i], c2);
    stage(q);
    HWY_UNROLL(8) for (int i = 0; i < kCount; i++) q[i] = _mm512_fmadd_ps(q[i], x[i], c1);
    stage(q);
    HWY_UNROLL(8) for (int i = 0; i < kCount; i++) x[i] = _mm512_mul_ps(root[i], x[i]);
    stage(x);
    HWY_UNROLL(8) for (int i = 0; i < kCount; i++) x[i] = _mm512_fmadd_ps(x[i], q[i], root[i]);
    stage(x);
    HWY_UNROLL(8) for (int i = 0; i < kCount; i++) out[i].raw = _mm512_scalef_ps(x[i], n[i]);
  }

  __m512 roots, magic, c1, c2, c3;
};
#endif

// p, of which the compiler knows nothing more. Inside a loop that keeps it from
// holding every p + constant in a register of its own, of which there are too
// few: they end up in memory and vector registers.
template <typename P>
HWY_INLINE P* opaque(P* p) {
#if HWY_COMPILER_GCC || HWY_COMPILER_CLANG
  asm volatile("" : "+r"(p));
#endif
  return p;
}

// Bounds within which DecayExp has no overflow of its own. exp(dt A) is 0, 1 or
// inf beyond them for any partner that occurs.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V clamp_step(D d, V dt) {
  using T = hn::TFromD<D>;
  return simd::ClampHigh(d, simd::ClampLow(d, hn::Mul(dt, hn::Set(d, DecayExp<D>::kScale)), T(-1e10)), T(1e10));
}
template <typename T>
T clamp_decay(T a) {
  return a < T(-1e15) ? T(-1e15) : a > T(1e15) ? T(1e15) : a;
}

// Up to `valid` channels; the others read as 0 and are not written.
template <class D, class T = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> load_channels(D d, const T* p, int64_t valid) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  if (HWY_LIKELY(valid >= lanes)) return hn::LoadU(d, p);
  return simd::LoadTail(d, p, static_cast<size_t>(valid));
}
template <class D, class T = hn::TFromD<D>>
HWY_INLINE void store_channels(hn::Vec<D> v, D d, T* p, int64_t valid) {
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  if (HWY_LIKELY(valid >= lanes)) {
    hn::StoreU(v, d, p);
  } else {
    simd::StoreTail(v, d, p, static_cast<size_t>(valid));
  }
}

// {channels, N} rows to and from a panel {N, kPanel}.
template <typename T>
void to_panel(const T* rows, int64_t channels, int64_t states, T* panel) {
  for (int64_t n = 0; n < states; n++) {
    for (int64_t c = 0; c < kPanel; c++) panel[n * kPanel + c] = c < channels ? rows[c * states + n] : T(0);
  }
}
template <typename T>
void from_panel(const T* panel, int64_t channels, int64_t states, T* rows) {
  for (int64_t c = 0; c < channels; c++) {
    for (int64_t n = 0; n < states; n++) rows[c * states + n] = panel[n * kPanel + c];
  }
}

// The channels of one task: panels [first, first + count) of one group.
struct Unit {
  int64_t group = 0, first = 0, count = 0;  // panels within the group

  // Where panel i of this unit begins and how many channels it has.
  int64_t channel(const ScanShape& s, int64_t i) const {
    return group * s.group_channels() + (first + i) * kPanel;
  }
  int64_t channels(const ScanShape& s, int64_t i) const {
    return std::min(kPanel, s.group_channels() - (first + i) * kPanel);
  }
  // Index of its panel i among all panels.
  int64_t panel(const ScanShape& s, int64_t i) const { return group * s.group_panels() + first + i; }
};

HWY_INLINE Unit unit_of(const ScanShape& s, int64_t index) {
  const int64_t per_group = scan_units_per_group(s), panels = s.group_panels();
  const int64_t group = index / per_group, i = index % per_group;
  const int64_t begin = i * panels / per_group, end = (i + 1) * panels / per_group;
  return {group, begin, end - begin};
}

// Panels of a constant B or C, or of states, for a unit.
template <typename T>
void load_matrix_panels(const ScanShape& s, const Unit& unit, const T* rows, T* panels) {
  const int64_t N = s.state, size = s.panel_size();
  for (int64_t i = 0; i < unit.count; i++) {
    T* panel = panels + i * size;
    to_panel(rows + unit.channel(s, i) * N, unit.channels(s, i), N, panel);
  }
}

// Panels of A, clamped for DecayExp; of complex numbers the real parts alone.
template <typename T>
void load_decay_panels(const ScanParams<T>& p, const Unit& unit, T* panels) {
  load_matrix_panels(p.shape, unit, p.A, panels);
  const int64_t rows = unit.count * p.shape.state;
  for (int64_t n = 0; n < rows; n += p.pairs ? 2 : 1) {
    for (int64_t c = 0; c < kPanel; c++) panels[n * kPanel + c] = clamp_decay(panels[n * kPanel + c]);
  }
}

// What the steps of one time block read: tokens and their rows of B and C. Tokens
// behind `count` repeat the last one, for functions that take several at a time.
template <typename T>
struct TimeBlock {
  int64_t count = 0;
  int64_t token[kSegment];
  const T* B[kSegment];
  const T* C[kSegment];
};

// The steps of a run from its step `first` on; none if it ends before.
template <typename T>
HWY_INLINE void fill_time_block(const ScanParams<T>& p, const ScanRun& run, int64_t group, int64_t first,
                                TimeBlock<T>* block) {
  block->count = std::min(kSegment, run.length - first);
  if (block->count <= 0) {
    block->count = 0;
    return;
  }
  for (int64_t i = 0; i < block->count; i++) {
    const int64_t t = scan_token(p, run, run.first + first + i);
    block->token[i] = t;
    block->B[i] = p.B.constant ? nullptr : p.B.row(run.row, t, group);
    block->C[i] = p.C.constant ? nullptr : p.C.row(run.row, t, group);
  }
  for (int64_t i = block->count; i < kSegment; i++) block->token[i] = block->token[block->count - 1];
}

// Zeros in the rows of a run's tokens, for the channels of a unit.
template <typename T>
void clear_rows(const ScanParams<T>& p, const ScanRun& run, const Unit& unit, const ScanRows<T>& rows) {
  if (!rows) return;
  const int64_t first = unit.channel(p.shape, 0);
  const int64_t end = unit.channel(p.shape, unit.count - 1) + unit.channels(p.shape, unit.count - 1);
  for (int64_t i = 0; i < run.length; i++) {
    T* row = rows.row(run.row, scan_token(p, run, run.first + i));
    std::fill(row + first, row + end, T(0));
  }
}

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
