#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <optional>

namespace aspis {

/// y = x W^T + b over the last axis.
///
/// @param x       {..., in}, floating point; rows with gaps (a slice along the last axis) are read in place
/// @param weight  {out, in}, as PyTorch keeps it
/// @param bias    {out}, or absent
/// @return {..., out}, in the widest dtype of the arguments; float16 and
///         bfloat16 are computed in float32, float64 in float64
///
/// Gradients for all three. Bit-equal for any number of threads; on x86 with
/// AVX-512 a row does not depend on the other rows either.
/// Throws `aspis::Error(kUsage)` when shapes disagree or an argument is not floating point.
mlx::core::array linear(const mlx::core::array& x, const mlx::core::array& weight,
                        const std::optional<mlx::core::array>& bias = {}, mlx::core::StreamOrDevice s = {});

/// The same out of MLX operations: oracle, export form and fallback.
mlx::core::array linear_composed(const mlx::core::array& x, const mlx::core::array& weight,
                                 const std::optional<mlx::core::array>& bias = {},
                                 mlx::core::StreamOrDevice s = {});

}  // namespace aspis
