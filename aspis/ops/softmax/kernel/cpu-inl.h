// Softmax over rows for one instruction set. Included once per target by cpu.cc.
//
// A row that fits the cache is read from memory once: the maximum, the
// exponentials with their sum, and the scaling are three passes over cached
// data. Pieces of a long row compute their own maximum and sum first; the row's
// are put together in the order of the pieces, and a second read writes the
// result.

#include "aspis/simd/loops-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

template <typename T>
HWY_ATTR void softmax_row(const T* x, T* y, int64_t n) {
  const hn::ScalableTag<T> d;
  const auto top = hn::Set(d, simd::MaxOfArray(d, n, x));
  // MaxOfArray may overlook a NaN; its exponential then makes the sum NaN.
  const T sum = simd::MapSumArrays(
      d, n, y, [top](auto tag, auto v) HWY_ATTR { return simd::ExpNonPositive(tag, hn::Sub(v, top)); }, x);
  const auto scale = hn::Set(d, T(1) / sum);
  simd::MapArrays(d, n, y, [scale](auto, auto v) HWY_ATTR { return hn::Mul(v, scale); }, y);
}

// Maximum of a piece and the sum of exp(x - reference), where the reference is
// the maximum, or 0 if that is -inf (so that the sum is 0, or NaN for a NaN).
template <typename T>
HWY_ATTR void softmax_piece(const T* x, int64_t n, T* top, T* sum) {
  const hn::ScalableTag<T> d;
  *top = simd::MaxOfArray(d, n, x);
  const auto reference = hn::Set(d, *top == -std::numeric_limits<T>::infinity() ? T(0) : *top);
  *sum = simd::SumArrays(
      d, n, [reference](auto tag, auto v) HWY_ATTR { return simd::ExpNonPositive(tag, hn::Sub(v, reference)); }, x);
}

template <typename T>
HWY_ATTR void softmax_write(const T* x, T* y, int64_t n, T row_top, T row_scale) {
  const hn::ScalableTag<T> d;
  const auto top = hn::Set(d, row_top), scale = hn::Set(d, row_scale);
  simd::MapArrays(
      d, n, y,
      [top, scale](auto tag, auto v) HWY_ATTR { return hn::Mul(simd::ExpNonPositive(tag, hn::Sub(v, top)), scale); },
      x);
}

template <typename T>
HWY_ATTR T softmax_dot(const T* y, const T* dy, int64_t n) {
  const hn::ScalableTag<T> d;
  return simd::SumArrays(d, n, [](auto, auto a, auto b) HWY_ATTR { return hn::Mul(a, b); }, y, dy);
}

template <typename T>
HWY_ATTR void softmax_vjp_write(const T* y, const T* dy, T* dx, int64_t n, T dot) {
  const hn::ScalableTag<T> d;
  const auto s = hn::Set(d, dot);
  simd::MapArrays(d, n, dx, [s](auto, auto a, auto b) HWY_ATTR { return hn::Mul(a, hn::Sub(b, s)); }, y, dy);
}

#define ASPIS_SOFTMAX_FOR(T, suffix)                                                                           \
  HWY_ATTR void softmax_row_##suffix(const T* x, T* y, int64_t n) { softmax_row(x, y, n); }                    \
  HWY_ATTR void softmax_piece_##suffix(const T* x, int64_t n, T* top, T* sum) { softmax_piece(x, n, top, sum); } \
  HWY_ATTR void softmax_write_##suffix(const T* x, T* y, int64_t n, T top, T scale) {                          \
    softmax_write(x, y, n, top, scale);                                                                        \
  }                                                                                                            \
  HWY_ATTR T softmax_dot_##suffix(const T* y, const T* dy, int64_t n) { return softmax_dot(y, dy, n); }        \
  HWY_ATTR void softmax_vjp_write_##suffix(const T* y, const T* dy, T* dx, int64_t n, T dot) {                 \
    softmax_vjp_write(y, dy, dx, n, dot);                                                                      \
  }
ASPIS_SOFTMAX_FOR(float, f32)
ASPIS_SOFTMAX_FOR(double, f64)
#undef ASPIS_SOFTMAX_FOR

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
