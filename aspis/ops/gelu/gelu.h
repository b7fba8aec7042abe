#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

namespace aspis {

/// GELU, elementwise (Hendrycks and Gimpel 2016): x Phi(x) with the normal
/// distribution function Phi, or, with `tanh_approximation`,
/// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
///
/// @param x  any shape, floating point. bfloat16 is read and written as such and
///           computed in float32; float16 goes through float32
/// @return the shape and dtype of x
/// Throws `aspis::Error(kUsage)` for integer input.
mlx::core::array gelu(const mlx::core::array& x, bool tanh_approximation = false,
                      mlx::core::StreamOrDevice s = {});

/// The same out of MLX operations: oracle, export form and fallback.
mlx::core::array gelu_composed(const mlx::core::array& x, bool tanh_approximation = false,
                               mlx::core::StreamOrDevice s = {});

}  // namespace aspis
