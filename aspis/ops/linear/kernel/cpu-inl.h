// The parts of linear that are not matrix products, for one instruction set:
// bias and column sums (also of partial results, taken as rows). All are
// additions in a fixed order, so every instruction set gives the same bits.

#include "aspis/simd/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

// y {rows, cols} += bias {cols}
template <typename T>
HWY_ATTR void add_bias_block(T* y, int64_t stride, int64_t rows, int64_t cols, const T* bias) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t r = 0; r < rows; r++) {
    T* row = y + r * stride;
    int64_t c = 0;
    for (; c + lanes <= cols; c += lanes) {
      hn::StoreU(hn::Add(hn::LoadU(d, row + c), hn::LoadU(d, bias + c)), d, row + c);
    }
    for (; c < cols; c++) row[c] += bias[c];
  }
}

// sums {cols} = sum over rows of g {rows, cols}, row after row
template <typename T>
HWY_ATTR void column_sums_block(const T* g, int64_t stride, int64_t rows, int64_t cols, T* sums) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t c = 0;
  for (; c + 4 * lanes <= cols; c += 4 * lanes) {
    auto s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;
    for (int64_t r = 0; r < rows; r++) {
      const T* row = g + r * stride + c;
      s0 = hn::Add(s0, hn::LoadU(d, row));
      s1 = hn::Add(s1, hn::LoadU(d, row + lanes));
      s2 = hn::Add(s2, hn::LoadU(d, row + 2 * lanes));
      s3 = hn::Add(s3, hn::LoadU(d, row + 3 * lanes));
    }
    hn::StoreU(s0, d, sums + c);
    hn::StoreU(s1, d, sums + c + lanes);
    hn::StoreU(s2, d, sums + c + 2 * lanes);
    hn::StoreU(s3, d, sums + c + 3 * lanes);
  }
  for (; c < cols; c += lanes) {
    const size_t n = static_cast<size_t>(HWY_MIN(lanes, cols - c));
    auto s = hn::Zero(d);
    for (int64_t r = 0; r < rows; r++) s = hn::Add(s, simd::LoadTail(d, g + r * stride + c, n));
    simd::StoreTail(s, d, sums + c, n);
  }
}

// to {cols, rows} = from {rows, cols}^T for the columns [first, last), in blocks
// of 4 x 4 (float) within strips of 16 rows, so that both sides use whole cache lines.
template <typename T>
HWY_ATTR void transpose_block(const T* from, int64_t stride, int64_t rows, int64_t first, int64_t last, T* to) {
  constexpr int64_t kStrip = 16;
  for (int64_t r0 = 0; r0 < rows; r0 += kStrip) {
    const int64_t r1 = HWY_MIN(rows, r0 + kStrip);
    int64_t c = first;
    if constexpr (sizeof(T) == 4 && HWY_MAX_BYTES >= 16) {
      const hn::CappedTag<T, 4> d;
      for (; hn::Lanes(d) == 4 && c + 4 <= last; c += 4) {
        int64_t r = r0;
        for (; r + 4 <= r1; r += 4) {
          const T* p = from + r * stride + c;
          const auto a0 = hn::LoadU(d, p), a1 = hn::LoadU(d, p + stride);
          const auto a2 = hn::LoadU(d, p + 2 * stride), a3 = hn::LoadU(d, p + 3 * stride);
          const auto low02 = hn::InterleaveLower(d, a0, a2), low13 = hn::InterleaveLower(d, a1, a3);
          const auto high02 = hn::InterleaveUpper(d, a0, a2), high13 = hn::InterleaveUpper(d, a1, a3);
          T* q = to + c * rows + r;
          hn::StoreU(hn::InterleaveLower(d, low02, low13), d, q);
          hn::StoreU(hn::InterleaveUpper(d, low02, low13), d, q + rows);
          hn::StoreU(hn::InterleaveLower(d, high02, high13), d, q + 2 * rows);
          hn::StoreU(hn::InterleaveUpper(d, high02, high13), d, q + 3 * rows);
        }
        for (; r < r1; r++) {
          for (int64_t k = 0; k < 4; k++) to[(c + k) * rows + r] = from[r * stride + c + k];
        }
      }
    }
    for (; c < last; c++) {
      for (int64_t r = r0; r < r1; r++) to[c * rows + r] = from[r * stride + c];
    }
  }
}

#define ASPIS_LINEAR_INSTANCE(T, suffix)                                                                     \
  HWY_ATTR void add_bias_##suffix(T* y, int64_t stride, int64_t rows, int64_t cols, const T* bias) {         \
    add_bias_block(y, stride, rows, cols, bias);                                                             \
  }                                                                                                          \
  HWY_ATTR void column_sums_##suffix(const T* g, int64_t stride, int64_t rows, int64_t cols, T* sums) {      \
    column_sums_block(g, stride, rows, cols, sums);                                                          \
  }                                                                                                          \
  HWY_ATTR void transpose_##suffix(const T* from, int64_t stride, int64_t rows, int64_t first, int64_t last, \
                                   T* to) {                                                                  \
    transpose_block(from, stride, rows, first, last, to);                                                    \
  }
ASPIS_LINEAR_INSTANCE(float, f32)
ASPIS_LINEAR_INSTANCE(double, f64)
#undef ASPIS_LINEAR_INSTANCE

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
