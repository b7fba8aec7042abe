#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

namespace aspis {

/// SiLU (swish): x sigmoid(x), elementwise (Elfwing et al. 2017).
///
/// @param x  any shape, floating point. bfloat16 is read and written as such and
///           computed in float32; float16 goes through float32
/// @return the shape and dtype of x
/// Throws `aspis::Error(kUsage)` for integer input.
mlx::core::array silu(const mlx::core::array& x, mlx::core::StreamOrDevice s = {});

/// The same out of MLX operations: oracle, export form and fallback.
mlx::core::array silu_composed(const mlx::core::array& x, mlx::core::StreamOrDevice s = {});

}  // namespace aspis
