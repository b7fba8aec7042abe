#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <optional>

#include "aspis/simd/activation.h"

namespace aspis {

namespace mx = mlx::core;

/// What follows the norm in the same pass: act(norm(x) + residual).
struct ChannelNormOptions {
  float eps = 1e-5f;
  Activation activation = Activation::kNone;
  std::optional<mx::array> residual = {};  ///< of x's shape
};

struct BatchNormResult {
  mx::array y;
  mx::array running_mean, running_var;  ///< as they are after this batch; no gradient flows through them
};

/// Batch norm over all axes but the last in training (Ioffe and Szegedy 2015):
/// the statistics are those of the batch, and the running ones follow them as in
/// PyTorch, (1 - momentum) old + momentum batch with the unbiased variance.
///
/// @param x       {..., C}, floating point (one value a channel gives the bias and no
///                gradient, where PyTorch refuses). bfloat16 is read and written as such and computed in float32;
///                float16 goes through float32
/// @param weight  {C}, or none for ones
/// @param bias    {C}, or none for zeros
/// @param running_mean, running_var {C}
/// @return y of x's shape and dtype, and the running statistics in float32 (float64 beside float64)
///
/// Gradients for x, weight, bias and residual. All functions here throw
/// `aspis::Error(kUsage)` for shapes, dtypes and options that do not fit.
BatchNormResult batch_norm_training(const mx::array& x, const std::optional<mx::array>& weight,
                                    const std::optional<mx::array>& bias, const mx::array& running_mean,
                                    const mx::array& running_var, float momentum = 0.1f,
                                    const ChannelNormOptions& options = {}, mx::StreamOrDevice s = {});

/// Batch norm with statistics that are given (inference, or frozen statistics in
/// training); no gradient flows to them.
mx::array batch_norm(const mx::array& x, const std::optional<mx::array>& weight,
                     const std::optional<mx::array>& bias, const mx::array& mean, const mx::array& var,
                     const ChannelNormOptions& options = {}, mx::StreamOrDevice s = {});

/// Group norm (Wu and He 2018): statistics over all positions of a sample and
/// over C / groups neighbouring channels. x is {B, ..., C}, C a multiple of `groups`.
mx::array group_norm(const mx::array& x, int groups, const std::optional<mx::array>& weight,
                     const std::optional<mx::array>& bias, const ChannelNormOptions& options = {},
                     mx::StreamOrDevice s = {});

/// Instance norm (Ulyanov et al. 2016): group norm with one channel a group.
mx::array instance_norm(const mx::array& x, const std::optional<mx::array>& weight,
                        const std::optional<mx::array>& bias, const ChannelNormOptions& options = {},
                        mx::StreamOrDevice s = {});

/// The same out of MLX operations: oracle, export form and fallback.
BatchNormResult batch_norm_training_composed(const mx::array& x, const std::optional<mx::array>& weight,
                                             const std::optional<mx::array>& bias, const mx::array& running_mean,
                                             const mx::array& running_var, float momentum = 0.1f,
                                             const ChannelNormOptions& options = {}, mx::StreamOrDevice s = {});
mx::array batch_norm_composed(const mx::array& x, const std::optional<mx::array>& weight,
                              const std::optional<mx::array>& bias, const mx::array& mean, const mx::array& var,
                              const ChannelNormOptions& options = {}, mx::StreamOrDevice s = {});
mx::array group_norm_composed(const mx::array& x, int groups, const std::optional<mx::array>& weight,
                              const std::optional<mx::array>& bias, const ChannelNormOptions& options = {},
                              mx::StreamOrDevice s = {});

}  // namespace aspis
