#pragma once

#include <cstddef>

namespace aspis {

// The vector functions of math-inl.h over plain arrays, on the calling thread,
// dispatched to the instruction set of `active_isa()`. y may be x; pointers
// need no alignment.

#define ASPIS_DECLARE_ARRAY_FUNCTION(name)            \
  void name(const float* x, float* y, std::size_t n); \
  void name(const double* x, double* y, std::size_t n);

ASPIS_DECLARE_ARRAY_FUNCTION(exp_array)
ASPIS_DECLARE_ARRAY_FUNCTION(exp_nonpositive_array)   ///< x <= 0
ASPIS_DECLARE_ARRAY_FUNCTION(exp2_nonpositive_array)  ///< x <= 0
ASPIS_DECLARE_ARRAY_FUNCTION(log_array)
ASPIS_DECLARE_ARRAY_FUNCTION(log1p_array)
ASPIS_DECLARE_ARRAY_FUNCTION(softplus_array)  ///< x above 20, else log1p(e^x)
ASPIS_DECLARE_ARRAY_FUNCTION(softplus_grad_array)
ASPIS_DECLARE_ARRAY_FUNCTION(sigmoid_array)
ASPIS_DECLARE_ARRAY_FUNCTION(silu_array)
ASPIS_DECLARE_ARRAY_FUNCTION(silu_grad_array)
ASPIS_DECLARE_ARRAY_FUNCTION(tanh_array)
ASPIS_DECLARE_ARRAY_FUNCTION(erf_array)
ASPIS_DECLARE_ARRAY_FUNCTION(gelu_array)  ///< x Phi(x)
ASPIS_DECLARE_ARRAY_FUNCTION(gelu_grad_array)
ASPIS_DECLARE_ARRAY_FUNCTION(gelu_tanh_array)  ///< 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
ASPIS_DECLARE_ARRAY_FUNCTION(gelu_tanh_grad_array)

#undef ASPIS_DECLARE_ARRAY_FUNCTION

/// Sum of n numbers in the fixed lane order of the active instruction set.
float sum_array(const float* x, std::size_t n);
double sum_array(const double* x, std::size_t n);
/// Largest of n numbers without NaN; -inf for none.
float max_array(const float* x, std::size_t n);
double max_array(const double* x, std::size_t n);

}  // namespace aspis
