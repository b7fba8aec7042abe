// Sum of several arrays for one instruction set. Included once per target by
// cpu.cc.
//
// Bound by memory: (count + 1) * sizeof(T) bytes per element and nothing else.
// Up to four inputs are added per pass over a block; more take further passes
// over the block's partial sums, which then lie in the L1 cache.

#include "aspis/simd/loops-inl.h"
#include "aspis/simd/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

// out = first + the `count` (1 to 3) arrays from `more` on.
template <typename T>
HWY_ATTR void add_group(T* out, int64_t n, const T* first, const T* const* more, size_t count, int64_t offset) {
  const hn::ScalableTag<T> d;
  const auto at = [&](size_t k) { return more[k] + offset; };
  switch (count) {
    case 1:
      simd::MapArrays(
          d, n, out, [](auto, auto a, auto b) HWY_ATTR { return hn::Add(a, b); }, first, at(0));
      break;
    case 2:
      simd::MapArrays(
          d, n, out, [](auto, auto a, auto b, auto c) HWY_ATTR { return hn::Add(hn::Add(a, b), c); }, first, at(0),
          at(1));
      break;
    default:
      simd::MapArrays(
          d, n, out,
          [](auto, auto a, auto b, auto c, auto e) HWY_ATTR { return hn::Add(hn::Add(hn::Add(a, b), c), e); },
          first, at(0), at(1), at(2));
      break;
  }
}

template <typename T>
HWY_ATTR void add_n_block(const AddNParams<T>& p, int64_t first, int64_t n) {
  T* out = p.y + first;
  const size_t count = p.xs.size();
  if (count == 1) {
    std::memmove(out, p.xs[0] + first, static_cast<size_t>(n) * sizeof(T));
    return;
  }
  const T* sum = p.xs[0] + first;
  for (size_t k = 1; k < count;) {
    const size_t group = HWY_MIN(count - k, size_t{3});
    add_group(out, n, sum, p.xs.data() + k, group, first);
    sum = out;
    k += group;
  }
}

// All inputs in one pass: a sum that is written as bfloat16 is not read back.
HWY_ATTR inline void add_n_half(const AddNParams<Bf16>& p, int64_t first, int64_t n) {
  const hn::ScalableTag<float> d;
  simd::ForVectors(d, n, [&](int64_t i, auto part) HWY_ATTR {
    auto sum = simd::LoadPart(d, p.xs[0] + first + i, part);
    for (size_t k = 1; k < p.xs.size(); k++) sum = hn::Add(sum, simd::LoadPart(d, p.xs[k] + first + i, part));
    simd::StorePart(sum, d, p.y + first + i, part);
  });
}

HWY_ATTR void add_n_f32(const AddNParams<float>& p, int64_t first, int64_t n) { add_n_block(p, first, n); }
HWY_ATTR void add_n_f64(const AddNParams<double>& p, int64_t first, int64_t n) { add_n_block(p, first, n); }
HWY_ATTR void add_n_bf16(const AddNParams<Bf16>& p, int64_t first, int64_t n) { add_n_half(p, first, n); }

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
