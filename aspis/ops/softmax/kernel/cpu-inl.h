// Softmax over rows for one instruction set. Included once per target by cpu.cc.
//
// A row that fits the cache is read from memory once: the maximum, the
// exponentials with their sum, and the scaling are three passes over cached
// data. Pieces of a long row compute their own maximum and sum first; the row's
// are put together in the order of the pieces, and a second read writes the
// result.

#include <cmath>

#include "aspis/simd/loops-inl.h"
#include "aspis/simd/vectors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

// Rows of up to so many values keep their exponentials in float on the stack where
// the result has fewer digits.
inline constexpr int64_t kSoftmaxBuffer = 4096;

// Writes the softmax, or its logarithm, of values whose maximum and sum of exp(x - maximum) are known.
template <typename S, typename T = Arithmetic<S>>
HWY_ATTR void softmax_write(const S* x, S* y, int64_t n, T row_top, T row_sum, bool logarithm) {
  const hn::ScalableTag<T> d;
  const auto top = hn::Set(d, row_top);
  if (logarithm) {
    // Two subtractions: the sum of a huge maximum and the logarithm would lose the latter.
    const auto log_sum = hn::Set(d, std::log(row_sum));
    simd::MapArrays(
        d, n, y, [=](auto, auto v) HWY_ATTR { return hn::Sub(hn::Sub(v, top), log_sum); }, x);
  } else {
    const auto scale = hn::Set(d, T(1) / row_sum);
    simd::MapArrays(
        d, n, y,
        [=](auto tag, auto v) HWY_ATTR { return hn::Mul(simd::ExpNonPositive(tag, hn::Sub(v, top)), scale); }, x);
  }
}

// The last pass asks for the row at `next`: exponentials and reading would take turns otherwise.
template <typename S, typename T = Arithmetic<S>>
HWY_ATTR void softmax_row(const S* x, S* y, int64_t n, bool logarithm, const S* next) {
  const hn::ScalableTag<T> d;
  const T row_top = simd::MaxOfArray(d, n, x);
  const auto top = hn::Set(d, row_top);
  const auto exp = [top](auto tag, auto v) HWY_ATTR { return simd::ExpNonPositive(tag, hn::Sub(v, top)); };
  // MaxOfArray may overlook a NaN; its exponential then makes the sum NaN.
  if (logarithm) return softmax_write(x, y, n, row_top, simd::SumArrays(d, n, exp, x), true);
  if constexpr (std::is_same_v<S, T>) {
    const auto scale = hn::Set(d, T(1) / simd::MapSumArrays(d, n, y, exp, x));
    simd::ForVectors(d, n, [&](int64_t i, auto part) HWY_ATTR {
      simd::PrefetchAny(next + i);
      simd::StorePart(hn::Mul(simd::LoadPart(d, y + i, part), scale), d, y + i, part);
    });
  } else if (n <= kSoftmaxBuffer) {
    HWY_ALIGN T buffer[kSoftmaxBuffer];
    const auto scale = hn::Set(d, T(1) / simd::MapSumArrays(d, n, buffer, exp, x));
    simd::ForVectors(d, n, [&](int64_t i, auto part) HWY_ATTR {
      simd::PrefetchAny(next + i);
      simd::StorePart(hn::Mul(simd::LoadPart(d, buffer + i, part), scale), d, y + i, part);
    });
  } else {
    softmax_write(x, y, n, row_top, simd::SumArrays(d, n, exp, x), false);
  }
}

// Gradient of a short row from x: probabilities with all digits instead of rounded ones.
template <typename S, typename T = Arithmetic<S>>
HWY_ATTR void softmax_vjp_row(const S* x, const S* dy, S* dx, int64_t n) {
  const hn::ScalableTag<T> d;
  HWY_ALIGN T y[kSoftmaxBuffer];
  const auto top = hn::Set(d, simd::MaxOfArray(d, n, x));
  const T sum = simd::MapSumArrays(
      d, n, y, [top](auto tag, auto v) HWY_ATTR { return simd::ExpNonPositive(tag, hn::Sub(v, top)); }, x);
  const T dot = simd::SumArrays(
                    d, n, [](auto, auto a, auto b) HWY_ATTR { return hn::Mul(a, b); }, y, dy) /
                sum;
  const auto s = hn::Set(d, dot), scale = hn::Set(d, T(1) / sum);
  simd::MapArrays(
      d, n, dx, [s, scale](auto, auto a, auto b) HWY_ATTR { return hn::Mul(hn::Mul(a, scale), hn::Sub(b, s)); }, y,
      dy);
}

// Maximum of a piece and the sum of exp(x - reference), where the reference is
// the maximum, or 0 if that is -inf (so that the sum is 0, or NaN for a NaN).
template <typename S, typename T = Arithmetic<S>>
HWY_ATTR void softmax_piece(const S* x, int64_t n, T* top, T* sum) {
  const hn::ScalableTag<T> d;
  *top = simd::MaxOfArray(d, n, x);
  const auto reference = hn::Set(d, *top == -std::numeric_limits<T>::infinity() ? T(0) : *top);
  *sum = simd::SumArrays(
      d, n, [reference](auto tag, auto v) HWY_ATTR { return simd::ExpNonPositive(tag, hn::Sub(v, reference)); },
      x);
}

// What the gradient sums over a row: dy y, or dy for the logarithm. Rounded
// probabilities do not add up to one, which the difference dy - sum(dy y) would
// show: that of a whole row is divided by theirs.
template <typename S, typename T = Arithmetic<S>>
HWY_ATTR T softmax_dot(const S* y, const S* dy, int64_t n, bool logarithm, bool whole) {
  const hn::ScalableTag<T> d;
  if (logarithm)
    return simd::SumArrays(
        d, n, [](auto, auto v) HWY_ATTR { return v; }, dy);
  if (std::is_same_v<S, T> || !whole) {
    return simd::SumArrays(
        d, n, [](auto, auto a, auto b) HWY_ATTR { return hn::Mul(a, b); }, y, dy);
  } else {
    T dot, sum;
    simd::SumArrays2(
        d, n, dot, sum,
        [](auto, auto& u, auto& v, auto a, auto b) HWY_ATTR {
          u = hn::Mul(a, b);
          v = a;
        },
        y, dy);
    return dot / sum;
  }
}

template <typename S, typename T = Arithmetic<S>>
HWY_ATTR void softmax_vjp_write(const S* y, const S* dy, S* dx, int64_t n, T dot, bool logarithm) {
  const hn::ScalableTag<T> d;
  const auto s = hn::Set(d, dot);
  if (logarithm) {
    simd::MapArrays(
        d, n, dx,
        [s](auto tag, auto a, auto b) HWY_ATTR { return hn::NegMulAdd(simd::ExpNonPositive(tag, a), s, b); }, y,
        dy);
  } else {
    simd::MapArrays(
        d, n, dx, [s](auto, auto a, auto b) HWY_ATTR { return hn::Mul(a, hn::Sub(b, s)); }, y, dy);
  }
}

#define ASPIS_SOFTMAX_FOR(S, T, suffix)                                                                          \
  HWY_ATTR void softmax_row_##suffix(const S* x, S* y, int64_t n, bool logarithm, const S* next) {               \
    softmax_row(x, y, n, logarithm, next);                                                                       \
  }                                                                                                              \
  HWY_ATTR void softmax_piece_##suffix(const S* x, int64_t n, T* top, T* sum) { softmax_piece(x, n, top, sum); } \
  HWY_ATTR void softmax_write_##suffix(const S* x, S* y, int64_t n, T top, T sum, bool logarithm) {              \
    softmax_write(x, y, n, top, sum, logarithm);                                                                 \
  }                                                                                                              \
  HWY_ATTR T softmax_dot_##suffix(const S* y, const S* dy, int64_t n, bool logarithm, bool whole) {              \
    return softmax_dot(y, dy, n, logarithm, whole);                                                              \
  }                                                                                                              \
  HWY_ATTR void softmax_vjp_write_##suffix(const S* y, const S* dy, S* dx, int64_t n, T dot, bool logarithm) {   \
    softmax_vjp_write(y, dy, dx, n, dot, logarithm);                                                             \
  }
HWY_ATTR void softmax_vjp_row_bf16(const Bf16* x, const Bf16* dy, Bf16* dx, int64_t n) {
  softmax_vjp_row(x, dy, dx, n);
}
ASPIS_SOFTMAX_FOR(float, float, f32)
ASPIS_SOFTMAX_FOR(double, double, f64)
ASPIS_SOFTMAX_FOR(Bf16, float, bf16)
#undef ASPIS_SOFTMAX_FOR

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
