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

#define ASPIS_LINEAR_INSTANCE(T, suffix)                                                                  \
  HWY_ATTR void add_bias_##suffix(T* y, int64_t stride, int64_t rows, int64_t cols, const T* bias) {      \
    add_bias_block(y, stride, rows, cols, bias);                                                          \
  }                                                                                                       \
  HWY_ATTR void column_sums_##suffix(const T* g, int64_t stride, int64_t rows, int64_t cols, T* sums) {   \
    column_sums_block(g, stride, rows, cols, sums);                                                       \
  }
ASPIS_LINEAR_INSTANCE(float, f32)
ASPIS_LINEAR_INSTANCE(double, f64)
#undef ASPIS_LINEAR_INSTANCE

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
