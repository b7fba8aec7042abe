// Sums for one instruction set. Included once per target by cpu.cc.

#include "aspis/simd/loops-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::kernel::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
namespace simd = aspis::HWY_NAMESPACE;

// Sum of n values, or of their products.
template <typename S, typename T = Arithmetic<S>>
HWY_ATTR T sum_run(const S* x, const S* factor, int64_t n) {
  const hn::ScalableTag<T> d;
  if (factor) {
    return simd::SumArrays(
        d, n, [](auto, auto v, auto w) HWY_ATTR { return hn::Mul(v, w); }, x, factor);
  }
  return simd::SumArrays(
      d, n, [](auto, auto v) HWY_ATTR { return v; }, x);
}

// line[k] = sum over `rows` rows of n values at distance `step`, four rows at a time.
template <typename S, typename T = Arithmetic<S>>
HWY_ATTR void sum_rows(const S* x, const S* factor, int64_t rows, int64_t n, int64_t step, T* line) {
  const hn::ScalableTag<T> d;
  std::fill(line, line + n, T(0));
  int64_t r = 0;
  if (!factor) {
    for (; r + 4 <= rows; r += 4) {
      const S* at = x + r * step;
      simd::MapArrays(
          d, n, line,
          [](auto, auto s, auto a, auto b, auto c, auto e)
              HWY_ATTR { return hn::Add(s, hn::Add(hn::Add(a, b), hn::Add(c, e))); },
          line, at, at + step, at + 2 * step, at + 3 * step);
    }
    for (; r < rows; r++) {
      simd::MapArrays(
          d, n, line, [](auto, auto s, auto a) HWY_ATTR { return hn::Add(s, a); }, line, x + r * step);
    }
    return;
  }
  for (; r + 2 <= rows; r += 2) {
    const S *at = x + r * step, *by = factor + r * step;
    simd::MapArrays(
        d, n, line,
        [](auto, auto s, auto a, auto b, auto u, auto v)
            HWY_ATTR { return hn::MulAdd(b, v, hn::MulAdd(a, u, s)); },
        line, at, at + step, by, by + step);
  }
  for (; r < rows; r++) {
    simd::MapArrays(
        d, n, line, [](auto, auto s, auto a, auto u) HWY_ATTR { return hn::MulAdd(a, u, s); }, line, x + r * step,
        factor + r * step);
  }
}

#define ASPIS_REDUCE_FOR(S, T, suffix)                                                                           \
  HWY_ATTR T sum_run_##suffix(const S* x, const S* factor, int64_t n) { return sum_run(x, factor, n); }          \
  HWY_ATTR void sum_rows_##suffix(const S* x, const S* factor, int64_t rows, int64_t n, int64_t step, T* line) { \
    sum_rows(x, factor, rows, n, step, line);                                                                    \
  }
ASPIS_REDUCE_FOR(float, float, f32)
ASPIS_REDUCE_FOR(double, double, f64)
ASPIS_REDUCE_FOR(Bf16, float, bf16)
#undef ASPIS_REDUCE_FOR

}  // namespace aspis::kernel::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
