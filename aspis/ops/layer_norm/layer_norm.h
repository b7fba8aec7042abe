#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <optional>
#include <utility>

namespace aspis {

/// Layer norm over the last axis (Ba, Kiros and Hinton 2016):
/// (x - mean(x)) / sqrt(mean((x - mean(x))^2) + eps) * weight + bias.
///
/// @param x       {..., N}, at least one axis, N >= 1, floating point;
///                bfloat16 is read and written as such and computed in float32,
///                float16 goes through float32
/// @param weight  {N}, or none for ones
/// @param bias    {N}, or none for zeros
/// @return the shape and dtype of x
/// Throws `aspis::Error(kUsage)` for another shape of weight or bias, integer
/// input and eps < 0.
mlx::core::array layer_norm(const mlx::core::array& x, const std::optional<mlx::core::array>& weight,
                            const std::optional<mlx::core::array>& bias, float eps = 1e-5f,
                            mlx::core::StreamOrDevice s = {});

/// The residual step of a block in one pass: returns {layer_norm(x + residual),
/// x + residual}. `residual` has the shape of x. Gradients enter through both
/// results.
std::pair<mlx::core::array, mlx::core::array> add_layer_norm(const mlx::core::array& x,
                                                             const mlx::core::array& residual,
                                                             const std::optional<mlx::core::array>& weight,
                                                             const std::optional<mlx::core::array>& bias,
                                                             float eps = 1e-5f, mlx::core::StreamOrDevice s = {});

/// The same norm over axis 1 of {B, N, ...}: images as PyTorch keeps them, without a
/// transposed copy.
mlx::core::array layer_norm_channels_first(const mlx::core::array& x,
                                           const std::optional<mlx::core::array>& weight,
                                           const std::optional<mlx::core::array>& bias, float eps = 1e-5f,
                                           mlx::core::StreamOrDevice s = {});

/// The same out of MLX operations: oracle, export form and fallback.
mlx::core::array layer_norm_composed(const mlx::core::array& x, const std::optional<mlx::core::array>& weight,
                                     const std::optional<mlx::core::array>& bias, float eps = 1e-5f,
                                     mlx::core::StreamOrDevice s = {});
mlx::core::array layer_norm_channels_first_composed(const mlx::core::array& x,
                                                    const std::optional<mlx::core::array>& weight,
                                                    const std::optional<mlx::core::array>& bias, float eps = 1e-5f,
                                                    mlx::core::StreamOrDevice s = {});

}  // namespace aspis
