#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <optional>
#include <utility>

namespace aspis {

/// RMS norm over the last axis (Zhang and Sennrich 2019):
/// x / sqrt(mean(x^2) + eps) * weight.
///
/// @param x       {..., N}, at least one axis, N >= 1, floating point;
///                bfloat16 is read and written as such and computed in float32,
///                float16 goes through float32
/// @param weight  {N}, or none for ones
/// @return the shape and dtype of x
/// Throws `aspis::Error(kUsage)` for another shape of weight, integer input and eps < 0.
mlx::core::array rms_norm(const mlx::core::array& x, const std::optional<mlx::core::array>& weight,
                          float eps = 1e-5f, mlx::core::StreamOrDevice s = {});

/// The residual step of a block in one pass: returns {rms_norm(x + residual),
/// x + residual}. `residual` has the shape of x. Gradients enter through both
/// results.
std::pair<mlx::core::array, mlx::core::array> add_rms_norm(const mlx::core::array& x,
                                                           const mlx::core::array& residual,
                                                           const std::optional<mlx::core::array>& weight,
                                                           float eps = 1e-5f, mlx::core::StreamOrDevice s = {});

/// The same out of MLX operations: oracle, export form and fallback.
mlx::core::array rms_norm_composed(const mlx::core::array& x, const std::optional<mlx::core::array>& weight,
                                   float eps = 1e-5f, mlx::core::StreamOrDevice s = {});

}  // namespace aspis
