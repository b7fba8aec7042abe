// The loops of recurrence.h for one instruction set. Included once per target by recurrence.cc.

#include "aspis/simd/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

// Vectors of state in registers, and vectors of y or x beside them.
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_NEON
constexpr int kHeld = 16, kBeside = 8;
#else
constexpr int kHeld = 8, kBeside = 4;
#endif

// kHeld / kVectors states by kVectors vectors over all spans of a block. `first`:
// y starts at zero.
template <int kVectors, typename T>
HWY_ATTR void hold_tile(const SpanBlock<T>& r, const T* B, const T* C, bool first, T* state, const T* given,
                        T* y) {
  const hn::ScalableTag<T> d;
  using V = hn::Vec<decltype(d)>;
  constexpr int kStates = kHeld / kVectors, kTokens = kBeside / kVectors;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d)), width = r.width;
  V h[kStates][kVectors];
#pragma GCC unroll 16
  for (int j = 0; j < kStates; j++) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; v++) h[j][v] = hn::LoadU(d, state + j * width + v * lanes);
  }
  for (int64_t m = 0; m < r.spans; m++) {
    for (int t0 = 0; t0 < kSpan; t0 += kTokens) {
      T* const row = y + t0 * width;
      V sum[kTokens][kVectors];
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; t++) {
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; v++)
          sum[t][v] = first ? hn::Zero(d) : hn::LoadU(d, row + t * width + v * lanes);
      }
      const T* const c = C + t0 * kStateTile;
#pragma GCC unroll 16
      for (int j = 0; j < kStates; j++) {
#pragma GCC unroll 8
        for (int t = 0; t < kTokens; t++) {
          const V value = hn::Set(d, c[t * kStateTile + j]);
#pragma GCC unroll 2
          for (int v = 0; v < kVectors; v++) sum[t][v] = hn::MulAdd(value, h[j][v], sum[t][v]);
        }
      }
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; t++) {
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; v++) hn::StoreU(sum[t][v], d, row + t * width + v * lanes);
      }
    }
    if (r.fresh[m]) {
#pragma GCC unroll 16
      for (int j = 0; j < kStates; j++) {
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; v++) h[j][v] = hn::Zero(d);
      }
    } else {
      const V through = hn::Set(d, r.through[m]);
#pragma GCC unroll 16
      for (int j = 0; j < kStates; j++) {
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; v++) h[j][v] = hn::Mul(through, h[j][v]);
      }
    }
    for (int t0 = 0; t0 < kSpan; t0 += kTokens) {
#pragma GCC unroll 8
      for (int t = t0; t < t0 + kTokens; t++) {
        V x[kVectors];
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; v++) x[v] = hn::LoadU(d, given + t * width + v * lanes);
        const T* const b = B + t * kStateTile;
#pragma GCC unroll 16
        for (int j = 0; j < kStates; j++) {
          const V value = hn::Set(d, b[j]);
#pragma GCC unroll 2
          for (int v = 0; v < kVectors; v++) h[j][v] = hn::MulAdd(value, x[v], h[j][v]);
        }
      }
    }
    B += r.tiles * kSpan * kStateTile;
    C += r.tiles * kSpan * kStateTile;
    given += kSpan * width;
    y += kSpan * width;
  }
#pragma GCC unroll 16
  for (int j = 0; j < kStates; j++) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; v++) hn::StoreU(h[j][v], d, state + j * width + v * lanes);
  }
}

// The part `i` of `parts` of the rows ahead.
template <typename T>
HWY_INLINE void prefetch_part(const Ahead<T>& a, int64_t headdim, int64_t i, int64_t parts) {
  constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
  for (int64_t r = a.count * i / parts; r < a.count * (i + 1) / parts; r++) {
    for (int64_t c = 0; c < headdim; c += kLine) __builtin_prefetch(a.rows + r * a.stride + c);
  }
}

template <typename T>
HWY_ATTR void read_input(const SpanInput<T>& r) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t t = 0; t < r.padded; t++) {
    T *own = r.own + t * r.width, *given = r.given + t * r.width;
    const bool real = t < r.tokens, gives = real && r.gives[t];
    const auto part = hn::Set(d, gives ? r.parts[t] : T(0));
    for (int64_t c = 0; c < r.width; c += lanes) {
      auto x = hn::Zero(d);
      if (real && c < r.headdim) {
        const T* from = r.x + t * r.stride + c;
        x = c + lanes <= r.headdim ? hn::LoadU(d, from)
                                   : simd::LoadTail(d, from, static_cast<size_t>(r.headdim - c));
      }
      hn::StoreU(x, d, own + c);
      hn::StoreU(gives ? hn::Mul(part, x) : hn::Zero(d), d, given + c);
    }
  }
}

template <typename T>
HWY_ATTR void hold_block(const SpanBlock<T>& r) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const int64_t parts = (r.states + kHeld / 2 - 1) / (kHeld / 2);
  for (int64_t n = 0; n < r.states; n += kHeld / 2) {
    const int64_t at = n / kStateTile * kSpan * kStateTile + n % kStateTile;
    const T *B = r.B + at, *C = r.C + at;
    for (const Ahead<T>& a : r.ahead) prefetch_part(a, r.headdim, n / (kHeld / 2), parts);
    int64_t c = 0;
    for (; c + 2 * lanes <= r.width; c += 2 * lanes)
      hold_tile<2>(r, B, C, n == 0, r.state + n * r.width + c, r.given + c, r.y + c);
    if (c == r.width || n % kHeld != 0) continue;
    hold_tile<1>(r, B, C, n == 0, r.state + n * r.width + c, r.given + c, r.y + c);
  }
}

template <typename T>
HWY_ATTR void write_output(const SpanOutput<T>& r) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t c = 0; c < r.headdim; c += lanes) {
    const size_t m = static_cast<size_t>(HWY_MIN(lanes, r.headdim - c));
    auto skip = hn::Zero(d);
    if (r.D) skip = r.channel_D ? simd::LoadTail(d, r.D + c, m) : hn::Set(d, r.D[0]);
    for (int64_t k = 0; k < r.tokens; k++) {
      auto sum = hn::Zero(d);
      // A choice and not a product: what must not arrive may be infinite.
      if (r.reached[k]) sum = hn::Mul(hn::Set(d, r.into[k]), hn::LoadU(d, r.y + k * r.width + c));
      const T *x = r.x + c, *weights = r.weights + k * kSpan;
      for (int64_t s = r.start[k], last = r.last ? r.last[k] : k; s <= last; s++)
        sum = hn::MulAdd(hn::Set(d, weights[s]), hn::LoadU(d, x + s * r.width), sum);
      const int64_t at = k * r.out_stride + c;
      if (r.D) sum = hn::MulAdd(skip, hn::LoadU(d, x + k * r.width), sum);
      if (r.before_gate) simd::StoreTail(sum, d, r.before_gate + at, m);
      if (r.z) sum = hn::Mul(sum, simd::Silu(d, simd::LoadTail(d, r.z + k * r.z_stride + c, m)));
      simd::StoreTail(sum, d, r.out + at, m);
    }
  }
}

HWY_ATTR void fill_span_loops(SpanLoops<float>& single, SpanLoops<double>& wide) {
  single = {&read_input<float>, &hold_block<float>, &write_output<float>};
  wide = {&read_input<double>, &hold_block<double>, &write_output<double>};
}

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
