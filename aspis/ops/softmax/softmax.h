#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

namespace aspis {

/// Softmax over the last axis: exp(x - max) / sum(exp(x - max)).
///
/// @param x  {..., N}, at least one axis, floating point; float16 and bfloat16
///           are computed in float32
/// @return the shape and dtype of x. Entries of -inf give 0; a row of -inf
///         only, or with a NaN or +inf, gives NaN throughout, as in PyTorch.
/// Throws `aspis::Error(kUsage)` for integer input and for a scalar.
/// MLX has a function of this name: call it as aspis::softmax.
mlx::core::array softmax(const mlx::core::array& x, mlx::core::StreamOrDevice s = {});

/// The same out of MLX operations: oracle, export form and fallback.
mlx::core::array softmax_composed(const mlx::core::array& x, mlx::core::StreamOrDevice s = {});

}  // namespace aspis
