// The scan with complex A, B and C for one instruction set. Included once per
// target by cpu.cc, after backward-inl.h.
//
// Rows 2 k and 2 k + 1 of a panel are the real and the imaginary part of state k,
// so that everything but the tiles is as for real numbers. The two lines of the
// recurrence and of its adjoint are written out; exp(dt A) is a real exponential
// times a sine and a cosine.

#include "aspis/simd/sincos-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {

// exp(dt A) = real + i imaginary, for dt kScale.
template <class D, class V = hn::Vec<D>>
HWY_INLINE void pair_decay(const DecayExp<D>& exp, V step, V re, V im, V& real, V& imaginary) {
  using T = hn::TFromD<D>;
  const D d;
  V sine, cosine;
  const V angle = hn::Mul(hn::Mul(step, hn::Set(d, T(1.0 / DecayExp<D>::kScale))), im);
  simd::SinCosAny(d, angle, sine, cosine);
  const V size = exp(step, re);
  real = hn::Mul(size, cosine);
  imaginary = hn::Mul(size, sine);
}

// State n / 2 over the time block; pointers as in forward_tile.
template <bool kConstB, bool kConstC, class D, class T = hn::TFromD<D>>
HWY_NOINLINE void forward_pair(const DecayExp<D>& exp, const TimeBlock<T>& time, int64_t n, const T* A, T* state,
                               const T* B_panel, const T* C_panel, ForwardRows<T>* rows) {
  using V = hn::Vec<D>;
  const D d;
  constexpr int64_t kLanes = hn::MaxLanes(d);
  const int64_t at = n * kPanel;
  const V re = hn::Load(d, A + at), im = hn::Load(d, A + at + kPanel), two = hn::Set(d, T(2));
  V x = hn::Load(d, state + at), xi = hn::Load(d, state + at + kPanel);
  for (int64_t i = 0; i < time.count; i++) {
    const V dtu = hn::Load(d, rows->dtu + i * kLanes);
    const T* B = kConstB ? B_panel + at : time.B[i] + n;
    const T* C = kConstC ? C_panel + at : time.C[i] + n;
    V a, ai;
    pair_decay(exp, hn::Load(d, rows->step + i * kLanes), re, im, a, ai);
    const V b = hn::Mul(dtu, matrix_value<kConstB>(d, B, 0)), bi = hn::Mul(dtu, matrix_value<kConstB>(d, B, 1));
    const V next = hn::MulAdd(a, x, hn::NegMulAdd(ai, xi, b));
    xi = hn::MulAdd(a, xi, hn::MulAdd(ai, x, bi));
    x = next;
    const V c = matrix_value<kConstC>(d, C, 0), ci = matrix_value<kConstC>(d, C, 1);
    const V real = hn::NegMulAdd(ci, xi, hn::Mul(c, x));
    hn::Store(n == 0 ? hn::Mul(two, real) : hn::MulAdd(two, real, hn::Load(d, rows->y + i * kLanes)), d,
              rows->y + i * kLanes);
  }
  hn::Store(x, d, state + at);
  hn::Store(xi, d, state + at + kPanel);
}

template <bool kConstB, bool kConstC, class D, class T>
void forward_pairs(const DecayExp<D>& exp, const TimeBlock<T>& time, int64_t values, const T* A, T* state,
                   const T* B_panel, const T* C_panel, ForwardRows<T>* rows) {
  for (int64_t n = 0; n < values; n += 2) {
    forward_pair<kConstB, kConstC, D>(exp, time, n, A, state, B_panel, C_panel, rows);
  }
}

// State n / 2 of one channel block during one segment, see backward_tile. With
// conj for the complex conjugate:
//
//     lambda_t = 2 g_t conj(C_t) + m_{t+1};   m_t = conj(a_t) lambda_t;   q = m_t conj(x_{t-1})
//     dA += dt q;  ddt += Re(conj(A) q);  sum_B += Re(lambda conj(B));  dB_t += lambda dt u;  dC_t += 2 g conj(x_t)
template <bool kConstB, bool kConstC, class D, class T = hn::TFromD<D>>
HWY_NOINLINE void backward_pair(const DecayExp<D>& exp, const TimeBlock<T>& time, int64_t n,
                                const BackwardBlock<T>& block, const LaneSums<T>& sums) {
  using V = hn::Vec<D>;
  const D d;
  constexpr int64_t kLanes = hn::MaxLanes(d);
  const int64_t at = n * kPanel;
  const V re = hn::Load(d, block.A + at), im = hn::Load(d, block.A + at + kPanel), two = hn::Set(d, T(2));
  HWY_ALIGN T kept_a[2 * kSegment * kLanes];
  HWY_ALIGN T kept_x[2 * (kSegment + 1) * kLanes];  // before each step, and after the last
  BackwardRows<T>& rows = *block.rows;
  V x = hn::LoadU(d, block.x0 + at), xi = hn::LoadU(d, block.x0 + at + kPanel);
  const auto keep = [&](int64_t i) HWY_ATTR {
    hn::Store(x, d, kept_x + 2 * i * kLanes);
    hn::Store(xi, d, kept_x + (2 * i + 1) * kLanes);
  };
  for (int64_t i = 0; i < time.count; i++) {
    const V dtu = hn::Load(d, rows.dtu + i * kLanes);
    const T* B = kConstB ? block.B + at : time.B[i] + n;
    V a, ai;
    pair_decay(exp, hn::Load(d, rows.step + i * kLanes), re, im, a, ai);
    hn::Store(a, d, kept_a + 2 * i * kLanes);
    hn::Store(ai, d, kept_a + (2 * i + 1) * kLanes);
    keep(i);
    const V b = hn::Mul(dtu, matrix_value<kConstB>(d, B, 0)), bi = hn::Mul(dtu, matrix_value<kConstB>(d, B, 1));
    const V next = hn::MulAdd(a, x, hn::NegMulAdd(ai, xi, b));
    xi = hn::MulAdd(a, xi, hn::MulAdd(ai, x, bi));
    x = next;
  }
  keep(time.count);

  const auto filled = hn::FirstN(d, sums.fresh ? 0 : hn::MaxLanes(d));
  const auto add_lanes = [&](T* p, V v) HWY_ATTR { hn::Store(hn::Add(hn::MaskedLoad(filled, d, p), v), d, p); };
  const auto add_to = [&](T* p, V v) HWY_ATTR { hn::Store(hn::Add(hn::Load(d, p), v), d, p); };
  const auto zero = hn::Zero(d);
  V m = hn::Load(d, block.m + at), mi = hn::Load(d, block.m + at + kPanel);
  V dA = zero, dAi = zero, dB = zero, dBi = zero, dC = zero, dCi = zero;
  for (int64_t i = time.count - 1; i >= 0; i--) {
    const T* B = kConstB ? block.B + at : time.B[i] + n;
    const T* C = kConstC ? block.C + at : time.C[i] + n;
    const V b = matrix_value<kConstB>(d, B, 0), bi = matrix_value<kConstB>(d, B, 1);
    const V c = matrix_value<kConstC>(d, C, 0), ci = matrix_value<kConstC>(d, C, 1);
    const V g = hn::Mul(two, hn::Load(d, rows.g + i * kLanes));
    const V dt = hn::Load(d, rows.dt + i * kLanes), dtu = hn::Load(d, rows.dtu + i * kLanes);
    const T* kept = kept_x + 2 * i * kLanes;
    const V before = hn::Load(d, kept), before_i = hn::Load(d, kept + kLanes);
    const V after = hn::Load(d, kept + 2 * kLanes), after_i = hn::Load(d, kept + 3 * kLanes);
    const V lambda = hn::MulAdd(g, c, m), lambda_i = hn::NegMulAdd(g, ci, mi);
    const V dc = hn::Mul(g, after), dci = hn::Neg(hn::Mul(g, after_i));
    const V db = hn::Mul(lambda, dtu), dbi = hn::Mul(lambda_i, dtu);
    if constexpr (kConstB) {
      dB = hn::Add(dB, db), dBi = hn::Add(dBi, dbi);
    } else {
      T* p = sums.B + (i * sums.states + n) * kLanes;
      add_lanes(p, db);
      add_lanes(p + kLanes, dbi);
    }
    if constexpr (kConstC) {
      dC = hn::Add(dC, dc), dCi = hn::Add(dCi, dci);
    } else {
      T* p = sums.C + (i * sums.states + n) * kLanes;
      add_lanes(p, dc);
      add_lanes(p + kLanes, dci);
    }
    const V a = hn::Load(d, kept_a + 2 * i * kLanes), ai = hn::Load(d, kept_a + (2 * i + 1) * kLanes);
    m = hn::MulAdd(a, lambda, hn::Mul(ai, lambda_i));
    mi = hn::NegMulAdd(ai, lambda, hn::Mul(a, lambda_i));
    const V q = hn::MulAdd(m, before, hn::Mul(mi, before_i));
    const V qi = hn::NegMulAdd(m, before_i, hn::Mul(mi, before));
    dA = hn::MulAdd(dt, q, dA);
    dAi = hn::MulAdd(dt, qi, dAi);
    const auto add_row = [&](T* row, V v) HWY_ATTR {
      T* p = row + i * kLanes;
      hn::Store(n == 0 ? v : hn::Add(hn::Load(d, p), v), d, p);
    };
    add_row(rows.sum_B, hn::MulAdd(lambda, b, hn::Mul(lambda_i, bi)));
    add_row(rows.sum_A, hn::MulAdd(re, q, hn::Mul(im, qi)));
    add_row(rows.y, hn::Mul(two, hn::NegMulAdd(ci, after_i, hn::Mul(c, after))));
  }
  hn::Store(m, d, block.m + at);
  hn::Store(mi, d, block.m + at + kPanel);
  add_to(block.dA + at, dA);
  add_to(block.dA + at + kPanel, dAi);
  if constexpr (kConstB) add_to(block.dB + at, dB), add_to(block.dB + at + kPanel, dBi);
  if constexpr (kConstC) add_to(block.dC + at, dC), add_to(block.dC + at + kPanel, dCi);
}

template <bool kConstB, bool kConstC, class D, class T>
void backward_pairs(const DecayExp<D>& exp, const TimeBlock<T>& time, int64_t values, const BackwardBlock<T>& block,
                    const LaneSums<T>& sums) {
  for (int64_t n = 0; n < values; n += 2) backward_pair<kConstB, kConstC, D>(exp, time, n, block, sums);
}

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
