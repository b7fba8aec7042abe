#pragma once

#include <cstddef>

#include "aspis/simd/bf16.h"

namespace aspis {

// The vector functions of math-inl.h over plain arrays, on the calling thread,
// dispatched to the instruction set of `active_isa()`. y may be x; pointers
// need no alignment.
//
// Largest error in units in the last place, stated (asserted by math_test.cc
// on every instruction set) and measured (AVX-512 and AVX2 / SSE4, which has no
// fused multiply-add), over the range where the result is a normal number. Where
// a function crosses zero the unit is that of max(|result|, 0.25), marked *.
//
//   function            range          stated   float          double
//   exp                 all            1.2      0.84 / 1.10    0.83 / 1.12
//   exp_nonpositive     x <= 0         2.5      1.96 / 2.21    0.88 / 1.13
//   exp2_nonpositive    x <= 0         2.5      2.01 / 2.17    0.92 / 1.16
//   log                 x > 0          1.0      0.81 / 0.81    0.75 / 0.75
//   log1p               x > -1         1.6      1.35 / 1.35    0.77 / 0.77
//   softplus            all            2.0      1.70 / 1.55    1.53 / 1.53
//   softplus_grad       all            2.6      2.21 / 2.15    2.00 / 2.00
//   sigmoid             all            2.6      2.21 / 2.15    2.00 / 2.00
//   silu                all            3.8      2.81 / 3.31    2.82 / 2.82
//   silu_grad           all            3.6 *    2.97 / 3.00    2.72 / 2.97
//   tanh                all            3.0      2.48 / 2.48    2.47 / 2.47
//   erf                 all            2.8      2.32 / 2.36    1.38 / 1.57
//   gelu                all            8.0      6.19 / 6.43    5.80 / 6.46
//   gelu_grad           all            8.0 *    5.42 / 6.30    5.26 / 5.35
//   gelu_tanh           all            2.0 *    1.60 / 1.69    1.58 / 1.61
//   gelu_tanh_grad      |x| <= 1e6     4.0 *    2.99 / 3.06    2.50 / 3.18
//
// To print the table anew: ASPIS_PRINT_ULP=1 aspis_simd_test.

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

/// Conversion to and from bfloat16, to nearest even.
void bf16_array(const float* x, Bf16* y, std::size_t n);
void float_array(const Bf16* x, float* y, std::size_t n);

/// Sum of n numbers in the fixed lane order of the active instruction set.
float sum_array(const float* x, std::size_t n);
double sum_array(const double* x, std::size_t n);
/// Largest of n numbers without NaN; -inf for none.
float max_array(const float* x, std::size_t n);
double max_array(const double* x, std::size_t n);

}  // namespace aspis
