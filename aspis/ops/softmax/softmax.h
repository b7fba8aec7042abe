#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

namespace aspis {

/// Softmax over the last axis: exp(x - max) / sum(exp(x - max)).
///
/// @param x  {..., N}, at least one axis, floating point; bfloat16 is read and
///           written as such and computed in float32, float16 goes through float32
/// @return the shape and dtype of x. Entries of -inf give 0; a row of -inf
///         only, or with a NaN or +inf, gives NaN throughout, as in PyTorch.
/// Throws `aspis::Error(kUsage)` for integer input and for a scalar.
/// MLX has a function of this name: call it as aspis::softmax.
mlx::core::array softmax(const mlx::core::array& x, mlx::core::StreamOrDevice s = {});

/// Its logarithm, x - max - log(sum(exp(x - max))), with the same conventions.
mlx::core::array log_softmax(const mlx::core::array& x, mlx::core::StreamOrDevice s = {});

/// The same out of MLX operations: oracle, export form and fallback.
mlx::core::array softmax_composed(const mlx::core::array& x, mlx::core::StreamOrDevice s = {});

mlx::core::array log_softmax_composed(const mlx::core::array& x, mlx::core::StreamOrDevice s = {});

}  // namespace aspis
