#include "aspis/simd/math.h"

#include "aspis/simd/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/simd/math.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "aspis/simd/math-inl.h"

// Name in math.h without _array, function in math-inl.h.
#ifndef ASPIS_SIMD_FUNCTIONS
#define ASPIS_SIMD_FUNCTIONS(X)      \
  X(exp, Exp)                        \
  X(exp_nonpositive, ExpNonPositive) \
  X(exp2_nonpositive, Exp2NonPositive) \
  X(log, Log)                        \
  X(log1p, Log1p)                    \
  X(softplus, Softplus)              \
  X(softplus_grad, SoftplusGrad)     \
  X(sigmoid, Sigmoid)                \
  X(silu, Silu)                      \
  X(silu_grad, SiluGrad)             \
  X(tanh, Tanh)                      \
  X(erf, Erf)                        \
  X(gelu, Gelu)                      \
  X(gelu_grad, GeluGrad)             \
  X(gelu_tanh, GeluTanh)             \
  X(gelu_tanh_grad, GeluTanhGrad)
#endif

HWY_BEFORE_NAMESPACE();
namespace aspis::HWY_NAMESPACE {

#define ASPIS_DEFINE(name, Function)                                         \
  struct Function##Functor {                                                 \
    template <class D>                                                       \
    HWY_INLINE hn::Vec<D> operator()(D d, hn::Vec<D> x) const {              \
      return Function(d, x);                                                 \
    }                                                                        \
  };                                                                         \
  void name##_f32(const float* x, float* y, size_t n) {                      \
    TransformArray(hn::ScalableTag<float>(), x, y, n, Function##Functor());  \
  }                                                                          \
  void name##_f64(const double* x, double* y, size_t n) {                    \
    TransformArray(hn::ScalableTag<double>(), x, y, n, Function##Functor()); \
  }
ASPIS_SIMD_FUNCTIONS(ASPIS_DEFINE)
#undef ASPIS_DEFINE

template <class T>
HWY_INLINE T Sum(const T* x, size_t n) {
  const hn::ScalableTag<T> d;
  const size_t lanes = hn::Lanes(d);
  auto sum = hn::Zero(d);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) sum = hn::Add(sum, hn::LoadU(d, x + i));
  if (i < n) sum = hn::Add(sum, LoadTail(d, x + i, n - i));
  return LaneSum(d, sum);
}
template <class T>
HWY_INLINE T Largest(const T* x, size_t n) {
  const hn::ScalableTag<T> d;
  const size_t lanes = hn::Lanes(d);
  constexpr T kLowest = -std::numeric_limits<T>::infinity();
  auto top = hn::Set(d, kLowest);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) top = hn::Max(top, hn::LoadU(d, x + i));
  if (i < n) top = hn::Max(top, LoadTailOr(d, x + i, n - i, kLowest));
  return LaneMax(d, top);
}
float sum_f32(const float* x, size_t n) { return Sum(x, n); }
double sum_f64(const double* x, size_t n) { return Sum(x, n); }
float max_f32(const float* x, size_t n) { return Largest(x, n); }
double max_f64(const double* x, size_t n) { return Largest(x, n); }

}  // namespace aspis::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace aspis {

#define ASPIS_DEFINE(name, Function)                               \
  HWY_EXPORT(name##_f32);                                          \
  HWY_EXPORT(name##_f64);                                          \
  void name##_array(const float* x, float* y, std::size_t n) {     \
    HWY_DYNAMIC_DISPATCH(name##_f32)(x, y, n);                     \
  }                                                                \
  void name##_array(const double* x, double* y, std::size_t n) {   \
    HWY_DYNAMIC_DISPATCH(name##_f64)(x, y, n);                     \
  }
ASPIS_SIMD_FUNCTIONS(ASPIS_DEFINE)
#undef ASPIS_DEFINE

HWY_EXPORT(sum_f32);
HWY_EXPORT(sum_f64);
HWY_EXPORT(max_f32);
HWY_EXPORT(max_f64);
float sum_array(const float* x, std::size_t n) { return HWY_DYNAMIC_DISPATCH(sum_f32)(x, n); }
double sum_array(const double* x, std::size_t n) { return HWY_DYNAMIC_DISPATCH(sum_f64)(x, n); }
float max_array(const float* x, std::size_t n) { return HWY_DYNAMIC_DISPATCH(max_f32)(x, n); }
double max_array(const double* x, std::size_t n) { return HWY_DYNAMIC_DISPATCH(max_f64)(x, n); }

}  // namespace aspis
#endif  // HWY_ONCE
