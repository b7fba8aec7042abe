// Quantised weights for one instruction set. Included once per target by cpu.cc.
//
// A shift and a mask bring 16 neighbouring integers into lanes; they become
// floats and meet x: three to four instructions for 16 values, so that memory,
// not arithmetic, is the limit. Within a group the integers are summed as they
// are, scale and offset follow once: sum w x = scale sum q x + offset sum x.

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

// One output for kRows rows of x; `sums` {rows, groups} holds the sums of x over
// the groups. kGroup is the number of 16s in a group within a block.
template <int kBits, int kRows>
HWY_ATTR void dot_rows(const QuantizedShape& s, const uint32_t* words, const float* scales, const float* offsets,
                       const float* x, int64_t x_stride, const float* sums, float bias, float* y,
                       int64_t y_stride) {
  const Tag d;
  const hn::RebindToUnsigned<Tag> du;
  using V = hn::Vec<Tag>;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d)), sixteens = s.group / 16, groups = s.groups();
  V total[kRows];
  for (auto& t : total) t = hn::Zero(d);
  for (int64_t h = 0; h < 16; h += lanes) {
    const float* in = x + h;
    const uint32_t* from = words + h;
    int64_t g = 0;
    for (int64_t b = 0; b < s.in; b += s.block(), from += 16) {
      const auto w = hn::LoadU(du, from);
      V part[kRows];
      for (auto& p : part) p = hn::Zero(d);
      const int64_t count = HWY_MIN(s.in - b, s.block()) / 16;
      const auto one = [&](auto index) HWY_ATTR {
        constexpr int kI = decltype(index)::value;
        if (kI >= count) return;
        const V q = floats_of<kBits, kI>(d, w);
        for (int r = 0; r < kRows; r++)
          part[r] = hn::MulAdd(q, hn::LoadU(d, in + r * x_stride + kI * 16), part[r]);
        if ((kI + 1) % sixteens == 0) {
          const V scale = hn::Set(d, scales[g++]);
          for (int r = 0; r < kRows; r++) {
            total[r] = hn::MulAdd(part[r], scale, total[r]);
            part[r] = hn::Zero(d);
          }
        }
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
      in += s.block();
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

template <int kBits>
HWY_ATTR void dot_any(const QuantizedLinearParams& p, const float* sums, int64_t o) {
  const QuantizedShape& s = p.shape;
  const uint32_t* const words = p.packed + o * s.words();
  const float *const scales = p.scales + o * s.groups(), *const offsets = p.offsets + o * s.groups();
  const float bias = p.bias ? p.bias[o] : 0.0f;
  int64_t r = 0;
  const auto run = [&](auto rows) HWY_ATTR {
    constexpr int kRows = decltype(rows)::value;
    for (; r + kRows <= p.rows; r += kRows) {
      dot_rows<kBits, kRows>(s, words, scales, offsets, p.x + r * p.x_stride, p.x_stride, sums + r * s.groups(),
                             bias, p.y + r * s.out + o, s.out);
    }
  };
  run(std::integral_constant<int, 4>());
  run(std::integral_constant<int, 1>());
}

HWY_ATTR void quantized_rows(const QuantizedLinearParams& p, const float* sums, int64_t first, int64_t last) {
  for (int64_t o = first; o < last; o++) {
    if (p.shape.bits == 4) {
      dot_any<4>(p, sums, o);
    } else {
      dot_any<8>(p, sums, o);
    }
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
