// Quantised weights for one instruction set. Included once per target by cpu.cc.
//
// A shift and a mask bring 16 neighbouring integers into lanes; they become
// floats and meet x: three to four instructions for 16 values, so that memory,
// not arithmetic, is the limit. Within a group the integers are summed as they
// are, scale and offset follow once: sum w x = scale sum q x + offset sum x.

#include <hwy/cache_control.h>

#include "aspis/simd/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

// Value i of the 32 / kBits in each word, as floats.
template <int kBits, int kI, class D, class VU>
HWY_ATTR HWY_INLINE hn::Vec<D> floats_of(D d, VU words) {
  const hn::RebindToUnsigned<D> du;
  const hn::RebindToSigned<D> di;
  auto q = hn::ShiftRight<kI * kBits>(words);
  if constexpr ((kI + 1) * kBits < 32) q = hn::And(q, hn::Set(du, (1u << kBits) - 1u));
  return hn::ConvertTo(d, hn::BitCast(di, q));
}

// Words ahead of which memory is asked for: 4 KiB.
constexpr int64_t kAhead = 1024;

// The tag of a vector of at most 16 floats.
using Tag = hn::CappedTag<float, 16>;

// to {in} = row of w.
template <int kBits>
HWY_ATTR void dequantize_row(const QuantizedShape& s, const uint32_t* words, const float* scales,
                             const float* offsets, float* to) {
  const Tag d;
  const hn::RebindToUnsigned<Tag> du;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t b = 0; b < s.in; b += s.block(), words += 16) {
    for (int64_t h = 0; h < 16; h += lanes) {
      const auto w = hn::LoadU(du, words + h);
      const auto one = [&](auto index) HWY_ATTR {
        constexpr int kI = decltype(index)::value;
        const int64_t at = b + kI * 16;
        if (at >= s.in) return;
        const int64_t g = at / s.group;
        hn::StoreU(hn::MulAdd(floats_of<kBits, kI>(d, w), hn::Set(d, scales[g]), hn::Set(d, offsets[g])), d,
                   to + at + h);
      };
      one(std::integral_constant<int, 0>());
      one(std::integral_constant<int, 1>());
      one(std::integral_constant<int, 2>());
      one(std::integral_constant<int, 3>());
      if constexpr (kBits == 4) {
        one(std::integral_constant<int, 4>());
        one(std::integral_constant<int, 5>());
        one(std::integral_constant<int, 6>());
        one(std::integral_constant<int, 7>());
      }
    }
  }
}

// Adds the first kCount units of 16 values of the words w to the sums of
// their groups of kSixteens units, and those to the totals.
template <int kBits, int kRows, int kSixteens, int kI, int kCount, class V, class VU>
HWY_ATTR HWY_INLINE void add_units(VU w, const float* in, int64_t x_stride, const float*& scales, V* part,
                                   V* total) {
  if constexpr (kI < kCount) {
    const Tag d;
    const V q = floats_of<kBits, kI>(d, w);
#pragma GCC unroll 4
    for (int r = 0; r < kRows; r++) {
      const V x = hn::LoadU(d, in + r * x_stride + kI * 16);
      part[r] = kI % kSixteens == 0 ? hn::Mul(q, x) : hn::MulAdd(q, x, part[r]);
    }
    if constexpr ((kI + 1) % kSixteens == 0) {
      const V scale = hn::Set(d, *scales++);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; r++) total[r] = hn::MulAdd(part[r], scale, total[r]);
    }
    add_units<kBits, kRows, kSixteens, kI + 1, kCount>(w, in, x_stride, scales, part, total);
  }
}

// One output for kRows rows of x; `sums` {rows, groups} holds the sums of x over
// the groups.
template <int kBits, int kRows, int kSixteens>
HWY_ATTR void dot_rows(const QuantizedShape& s, const uint32_t* words, const float* scales, const float* offsets,
                       const float* x, int64_t x_stride, const float* sums, float bias, float* y,
                       int64_t y_stride) {
  const Tag d;
  const hn::RebindToUnsigned<Tag> du;
  using V = hn::Vec<Tag>;
  constexpr int kUnits = 32 / kBits, kBlock = 16 * kUnits;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d)), groups = s.groups(), whole = s.in / kBlock;
  V total[kRows];
  for (auto& t : total) t = hn::Zero(d);
  for (int64_t h = 0; h < 16; h += lanes) {
    const float *in = x + h, *scale = scales;
    const uint32_t* from = words + h;
    V part[kRows];
    for (auto& p : part) p = hn::Zero(d);
    for (int64_t b = 0; b < whole; b++, from += 16, in += kBlock) {
      // The window of instructions holds too few loads to keep memory busy by itself.
      hwy::Prefetch(from + kAhead);
      add_units<kBits, kRows, kSixteens, 0, kUnits>(hn::LoadU(du, from), in, x_stride, scale, part, total);
    }
    // A last block that is not full, a group at a time.
    const int64_t rest = (s.in - whole * kBlock) / (16 * kSixteens);
    auto w = rest > 0 ? hn::LoadU(du, from) : hn::Zero(du);
    for (int64_t g = 0; g < rest; g++, in += 16 * kSixteens) {
      add_units<kBits, kRows, kSixteens, 0, kSixteens>(w, in, x_stride, scale, part, total);
      if constexpr (kSixteens * kBits < 32) w = hn::ShiftRight<kSixteens * kBits>(w);
    }
  }
  for (int r = 0; r < kRows; r++) {
    V shift = hn::Zero(d);
    int64_t g = 0;
    for (; g + lanes <= groups; g += lanes) {
      shift = hn::MulAdd(hn::LoadU(d, offsets + g), hn::LoadU(d, sums + r * groups + g), shift);
    }
    if (g < groups) {
      const size_t n = static_cast<size_t>(groups - g);
      shift = hn::MulAdd(simd::LoadTail(d, offsets + g, n), simd::LoadTail(d, sums + r * groups + g, n), shift);
    }
    y[r * y_stride] = bias + simd::LaneSum(d, hn::Add(total[r], shift));
  }
}

// Two rows of x at a time stay in the first-level cache, the integers of a task in the second.
template <int kBits, int kSixteens>
HWY_ATTR void dot_outputs(const QuantizedLinearParams& p, const float* sums, int64_t first, int64_t last) {
  const QuantizedShape& s = p.shape;
  const int64_t words = s.words(), groups = s.groups();
  const auto run = [&](auto rows, int64_t r) HWY_ATTR {
    constexpr int kRows = decltype(rows)::value;
    for (int64_t o = first; o < last; o++) {
      dot_rows<kBits, kRows, kSixteens>(s, p.packed + o * words, p.scales + o * groups, p.offsets + o * groups,
                                        p.x + r * p.x_stride, p.x_stride, sums + r * groups,
                                        p.bias ? p.bias[o] : 0.0f, p.y + r * s.out + o, s.out);
    }
  };
  int64_t r = 0;
  for (; r + 2 <= p.rows; r += 2) run(std::integral_constant<int, 2>(), r);
  if (r < p.rows) run(std::integral_constant<int, 1>(), r);
}

HWY_ATTR void quantized_rows(const QuantizedLinearParams& p, const float* sums, int64_t first, int64_t last) {
  const int64_t sixteens = p.shape.group / 16;
  if (p.shape.bits == 4) {
    switch (sixteens) {
      case 1:
        return dot_outputs<4, 1>(p, sums, first, last);
      case 2:
        return dot_outputs<4, 2>(p, sums, first, last);
      case 4:
        return dot_outputs<4, 4>(p, sums, first, last);
      default:
        return dot_outputs<4, 8>(p, sums, first, last);
    }
  }
  switch (sixteens) {
    case 1:
      return dot_outputs<8, 1>(p, sums, first, last);
    case 2:
      return dot_outputs<8, 2>(p, sums, first, last);
    default:
      return dot_outputs<8, 4>(p, sums, first, last);
  }
}

HWY_ATTR void dequantize_rows(const QuantizedLinearParams& p, int64_t first, int64_t last, float* to) {
  const QuantizedShape& s = p.shape;
  for (int64_t o = first; o < last; o++, to += s.in) {
    const uint32_t* const words = p.packed + o * s.words();
    const float *const scales = p.scales + o * s.groups(), *const offsets = p.offsets + o * s.groups();
    if (s.bits == 4) {
      dequantize_row<4>(s, words, scales, offsets, to);
    } else {
      dequantize_row<8>(s, words, scales, offsets, to);
    }
  }
}

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
