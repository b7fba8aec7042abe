// The activations and their derivatives as types, for one instruction set.

#if defined(ASPIS_SIMD_ACTIVATION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ASPIS_SIMD_ACTIVATION_INL_H_
#undef ASPIS_SIMD_ACTIVATION_INL_H_
#else
#define ASPIS_SIMD_ACTIVATION_INL_H_
#endif

#include "aspis/simd/activation.h"
#include "aspis/simd/math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace aspis::HWY_NAMESPACE {

/// f(x) of one activation; a NaN stays one.
template <Activation kF, class D, class V = hn::Vec<D>>
HWY_INLINE V Activate(D d, V x) {
  if constexpr (kF == Activation::kRelu) {
    return ClampLow(d, x, hn::TFromD<D>(0));
  } else if constexpr (kF == Activation::kSilu) {
    return Silu(d, x);
  } else if constexpr (kF == Activation::kGelu) {
    return Gelu(d, x);
  } else if constexpr (kF == Activation::kGeluTanh) {
    return GeluTanh(d, x);
  } else {
    return x;
  }
}

/// dy f'(x). The derivative of relu at 0 is 0; where x is NaN, so is the result,
/// but for relu, which hands dy on as PyTorch does.
template <Activation kF, class D, class V = hn::Vec<D>>
HWY_INLINE V ActivationGrad(D d, V x, V dy) {
  if constexpr (kF == Activation::kRelu) {
    return hn::IfThenZeroElse(hn::Le(x, hn::Zero(d)), dy);
  } else if constexpr (kF == Activation::kSilu) {
    return hn::Mul(dy, SiluGrad(d, x));
  } else if constexpr (kF == Activation::kGelu) {
    return hn::Mul(dy, GeluGrad(d, x));
  } else if constexpr (kF == Activation::kGeluTanh) {
    return hn::Mul(dy, GeluTanhGrad(d, x));
  } else {
    return dy;
  }
}

/// Calls f with the activation as a std::integral_constant.
template <class F>
HWY_INLINE void WithActivation(Activation kind, const F& f) {
  switch (kind) {
    case Activation::kNone:
      return f(std::integral_constant<Activation, Activation::kNone>());
    case Activation::kRelu:
      return f(std::integral_constant<Activation, Activation::kRelu>());
    case Activation::kSilu:
      return f(std::integral_constant<Activation, Activation::kSilu>());
    case Activation::kGelu:
      return f(std::integral_constant<Activation, Activation::kGelu>());
    case Activation::kGeluTanh:
      return f(std::integral_constant<Activation, Activation::kGeluTanh>());
  }
}

}  // namespace aspis::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // ASPIS_SIMD_ACTIVATION_INL_H_
