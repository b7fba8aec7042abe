// Scaled sums of rows for one instruction set. Included once per target by cpu.cc.

#include "aspis/simd/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// to = scale (rows[0] + .. + rows[count - 1]), in that order.
template <typename T>
HWY_ATTR void sum_rows(const T* const* rows, int64_t count, int64_t width, T scale, T* to) {
  const hn::ScalableTag<T> d;
  const int64_t lanes = static_cast<int64_t>(hn::Lanes(d));
  const auto factor = hn::Set(d, scale);
  int64_t c = 0;
  for (; c + lanes <= width; c += lanes) {
    auto sum = hn::LoadU(d, rows[0] + c);
    for (int64_t k = 1; k < count; k++) sum = hn::Add(sum, hn::LoadU(d, rows[k] + c));
    hn::StoreU(hn::Mul(factor, sum), d, to + c);
  }
  for (; c < width; c++) {
    T sum = rows[0][c];
    for (int64_t k = 1; k < count; k++) sum += rows[k][c];
    to[c] = scale * sum;
  }
}

HWY_ATTR void sum_rows_f32(const float* const* rows, int64_t count, int64_t width, float scale, float* to) {
  sum_rows(rows, count, width, scale, to);
}
HWY_ATTR void sum_rows_f64(const double* const* rows, int64_t count, int64_t width, double scale, double* to) {
  sum_rows(rows, count, width, scale, to);
}

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
