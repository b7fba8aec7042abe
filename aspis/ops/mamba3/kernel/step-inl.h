// The loops of step.h for one instruction set. Included once per target by step.cc.

#include <cmath>

#include "aspis/simd/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

// Whole vectors, which most are, without a mask.
template <class D, typename T = hn::TFromD<D>>
HWY_ATTR HWY_INLINE hn::Vec<D> LoadPart(D d, const T* p, size_t n) {
  return HWY_LIKELY(n == hn::Lanes(d)) ? hn::LoadU(d, p) : simd::LoadTail(d, p, n);
}
template <class D, typename T = hn::TFromD<D>>
HWY_ATTR HWY_INLINE void StorePart(hn::Vec<D> v, D d, T* p, size_t n) {
  if (HWY_LIKELY(n == hn::Lanes(d))) {
    hn::StoreU(v, d, p);
  } else {
    simd::StoreTail(v, d, p, n);
  }
}

// kRows rows of the state for kRank ranks: read once, written once.
template <int kRows, int kRank, typename T>
HWY_ATTR HWY_INLINE void state_rows(const StateStep<T>& s, int64_t p) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d)), N = s.state, P = s.headdim, stride = s.before_stride;
  const V decay = hn::Set(d, s.alpha);
  // Held here: a store to the state might change what `s` points at.
  const T *const from = s.from + p * N, *const k_before = s.k_before, *const k = s.k, *const q = s.q;
  T *const to = s.to + p * N, *const y = s.y + p;
  V sum[kRank][kRows];
  T before[kRank][kRows], now[kRank][kRows];
#pragma GCC unroll 4
  for (int r = 0; r < kRank; r++) {
#pragma GCC unroll 4
    for (int i = 0; i < kRows; i++) {
      sum[r][i] = hn::Zero(d);
      before[r][i] = s.before[r * P + p + i], now[r][i] = s.now[r * P + p + i];
    }
  }
  const auto step = [&](int64_t n, size_t m) HWY_ATTR {
    V h[kRows];
#pragma GCC unroll 4
    for (int i = 0; i < kRows; i++) h[i] = hn::Mul(decay, LoadPart(d, from + i * N + n, m));
#pragma GCC unroll 4
    for (int r = 0; r < kRank; r++) {
      const V old = LoadPart(d, k_before + r * stride + n, m), key = LoadPart(d, k + r * N + n, m);
#pragma GCC unroll 4
      for (int i = 0; i < kRows; i++) h[i] = hn::MulAdd(hn::Set(d, before[r][i]), old, h[i]);
#pragma GCC unroll 4
      for (int i = 0; i < kRows; i++) h[i] = hn::MulAdd(hn::Set(d, now[r][i]), key, h[i]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < kRows; i++) StorePart(h[i], d, to + i * N + n, m);
#pragma GCC unroll 4
    for (int r = 0; r < kRank; r++) {
      const V query = LoadPart(d, q + r * N + n, m);
#pragma GCC unroll 4
      for (int i = 0; i < kRows; i++) sum[r][i] = hn::MulAdd(h[i], query, sum[r][i]);
    }
  };
  int64_t n = 0;
  for (; n + lanes <= N; n += lanes) step(n, static_cast<size_t>(lanes));
  if (n < N) step(n, static_cast<size_t>(N - n));
#pragma GCC unroll 4
  for (int r = 0; r < kRank; r++) {
#pragma GCC unroll 4
    for (int i = 0; i < kRows; i++) y[r * P + i] = simd::LaneSum(d, sum[r][i]);
  }
}

// One row for any rank: its products read it again from the nearest cache.
template <typename T>
HWY_ATTR void state_row(const StateStep<T>& s, int64_t p) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d)), N = s.state;
  const auto decay = hn::Set(d, s.alpha);
  T* const row = s.to + p * N;
  for (int64_t n = 0; n < N; n += lanes) {
    const size_t m = static_cast<size_t>(HWY_MIN(lanes, N - n));
    auto h = hn::Mul(decay, LoadPart(d, s.from + p * N + n, m));
    for (int64_t r = 0; r < s.rank; r++) {
      const int64_t at = r * s.headdim + p;
      h = hn::MulAdd(hn::Set(d, s.before[at]), LoadPart(d, s.k_before + r * s.before_stride + n, m), h);
      h = hn::MulAdd(hn::Set(d, s.now[at]), LoadPart(d, s.k + r * N + n, m), h);
    }
    StorePart(h, d, row + n, m);
  }
  for (int64_t r = 0; r < s.rank; r++) {
    auto sum = hn::Zero(d);
    for (int64_t n = 0; n < N; n += lanes) {
      const size_t m = static_cast<size_t>(HWY_MIN(lanes, N - n));
      sum = hn::MulAdd(LoadPart(d, row + n, m), LoadPart(d, s.q + r * N + n, m), sum);
    }
    s.y[r * s.headdim + p] = simd::LaneSum(d, sum);
  }
}

template <typename T>
HWY_ATTR void step_state(const StateStep<T>& s) {
  int64_t p = 0;
  if (s.rank == 1) {
    for (; p + 4 <= s.headdim; p += 4) state_rows<4, 1>(s, p);
    for (; p < s.headdim; p++) state_rows<1, 1>(s, p);
  } else if (s.rank == 2) {
    for (; p + 4 <= s.headdim; p += 4) state_rows<4, 2>(s, p);
    for (; p < s.headdim; p++) state_rows<1, 2>(s, p);
  } else if (s.rank == 4) {
    for (; p + 2 <= s.headdim; p += 2) state_rows<2, 4>(s, p);
    for (; p < s.headdim; p++) state_rows<1, 4>(s, p);
  } else {
    for (; p < s.headdim; p++) state_row(s, p);
  }
}

template <typename T>
HWY_ATTR void prepare_vector(int64_t n, const T* x, const T* weight, T eps, const T* bias, T* out) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  auto scale = hn::Set(d, T(1));
  if (weight) {
    auto squares = hn::Zero(d);
    for (int64_t i = 0; i < n; i += lanes) {
      const auto v = LoadPart(d, x + i, static_cast<size_t>(HWY_MIN(lanes, n - i)));
      squares = hn::MulAdd(v, v, squares);
    }
    scale = hn::Set(d, T(1) / std::sqrt(simd::LaneSum(d, squares) / static_cast<T>(n) + eps));
  }
  for (int64_t i = 0; i < n; i += lanes) {
    const size_t m = static_cast<size_t>(HWY_MIN(lanes, n - i));
    auto v = LoadPart(d, x + i, m);
    if (weight) v = hn::Mul(hn::Mul(v, scale), LoadPart(d, weight + i, m));
    if (bias) v = hn::Add(v, LoadPart(d, bias + i, m));
    StorePart(v, d, out + i, m);
  }
}

HWY_ATTR void fill_step(StepLoops<float>& single, StepLoops<double>& wide) {
  single = {&step_state<float>, &prepare_vector<float>};
  wide = {&step_state<double>, &prepare_vector<double>};
}

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
