#include "aspis/simd/math.h"

#include "aspis/simd/targets.h"
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/simd/math.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "aspis/simd/loops-inl.h"

// Name in math.h without _array, function in math-inl.h.
#ifndef ASPIS_SIMD_FUNCTIONS
#define ASPIS_SIMD_FUNCTIONS(X)        \
  X(exp, Exp)                          \
  X(exp_nonpositive, ExpNonPositive)   \
  X(exp2_nonpositive, Exp2NonPositive) \
  X(log, Log)                          \
  X(log1p, Log1p)                      \
  X(softplus, Softplus)                \
  X(softplus_grad, SoftplusGrad)       \
  X(sigmoid, Sigmoid)                  \
  X(silu, Silu)                        \
  X(silu_grad, SiluGrad)               \
  X(tanh, Tanh)                        \
  X(erf, Erf)                          \
  X(gelu, Gelu)                        \
  X(gelu_grad, GeluGrad)               \
  X(gelu_tanh, GeluTanh)               \
  X(gelu_tanh_grad, GeluTanhGrad)
#endif

HWY_BEFORE_NAMESPACE();
namespace aspis::HWY_NAMESPACE {

#define ASPIS_DEFINE(name, Function)                                             \
  struct Function##Functor {                                                     \
    template <class D>                                                           \
    HWY_INLINE hn::Vec<D> operator()(D d, hn::Vec<D> x) const {                  \
      return Function(d, x);                                                     \
    }                                                                            \
  };                                                                             \
  void name##_f32(const float* x, float* y, size_t n) {                          \
    MapArrays(hn::ScalableTag<float>(), int64_t(n), y, Function##Functor(), x);  \
  }                                                                              \
  void name##_f64(const double* x, double* y, size_t n) {                        \
    MapArrays(hn::ScalableTag<double>(), int64_t(n), y, Function##Functor(), x); \
  }
ASPIS_SIMD_FUNCTIONS(ASPIS_DEFINE)
#undef ASPIS_DEFINE

struct Itself {
  template <class D>
  HWY_INLINE hn::Vec<D> operator()(D /*d*/, hn::Vec<D> x) const {
    return x;
  }
};
template <class T>
T Sum(const T* x, size_t n) {
  return SumArrays(hn::ScalableTag<T>(), int64_t(n), Itself(), x);
}
template <class T>
T Largest(const T* x, size_t n) {
  return MaxOfArray(hn::ScalableTag<T>(), int64_t(n), x);
}
void to_bf16_n(const float* x, Bf16* y, size_t n) {
  MapArrays(hn::ScalableTag<float>(), int64_t(n), y, Itself(), x);
}
void to_float_n(const Bf16* x, float* y, size_t n) {
  MapArrays(hn::ScalableTag<float>(), int64_t(n), y, Itself(), x);
}
float sum_f32(const float* x, size_t n) { return Sum(x, n); }
double sum_f64(const double* x, size_t n) { return Sum(x, n); }
float max_f32(const float* x, size_t n) { return Largest(x, n); }
double max_f64(const double* x, size_t n) { return Largest(x, n); }

}  // namespace aspis::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace aspis {

#define ASPIS_DEFINE(name, Function)                                                                        \
  HWY_EXPORT(name##_f32);                                                                                   \
  HWY_EXPORT(name##_f64);                                                                                   \
  void name##_array(const float* x, float* y, std::size_t n) { HWY_DYNAMIC_DISPATCH(name##_f32)(x, y, n); } \
  void name##_array(const double* x, double* y, std::size_t n) { HWY_DYNAMIC_DISPATCH(name##_f64)(x, y, n); }
ASPIS_SIMD_FUNCTIONS(ASPIS_DEFINE)
#undef ASPIS_DEFINE

HWY_EXPORT(to_bf16_n);
HWY_EXPORT(to_float_n);
void bf16_array(const float* x, Bf16* y, std::size_t n) { HWY_DYNAMIC_DISPATCH(to_bf16_n)(x, y, n); }
void float_array(const Bf16* x, float* y, std::size_t n) { HWY_DYNAMIC_DISPATCH(to_float_n)(x, y, n); }

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
