#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <vector>

#include "aspis/ops/adamw/optimizer_step.h"

namespace aspis {

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double eps = 1e-8;
  double weight_decay = 0.01;
};

struct AdamWResult {
  std::vector<mlx::core::array> params, m, v;
  mlx::core::array applied;  ///< float32 scalar: 1, or 0 if the guard stopped the step
};

/// One step of AdamW (Loshchilov and Hutter 2019; as torch.optim.AdamW) over all
/// parameters in one primitive and one pass over memory:
///
///     g = gradient * scale * min(1, max_norm / (norm * scale + 1e-6))
///     p = p (1 - lr weight_decay)                              where `decay` is set
///     m = beta1 m + (1 - beta1) g      v = beta2 v + (1 - beta2) g^2
///     p = p - lr / (1 - beta1^step) m / (sqrt(v / (1 - beta2^step)) + eps)
///
/// If the norm or the loss is not finite, parameters and moments come out
/// unchanged and `applied` is 0: one `eval` of loss, norm and results per step is enough.
///
/// @param params     any shapes, all float32 (or all float64)
/// @param gradients  one per parameter, same shape, any floating dtype
/// @param m, v       moments, same shape and dtype as the parameter; zeros at first
/// @param decay      one flag per parameter
///
/// Pass the lists by move and keep no other reference to their arrays: a buffer
/// that nothing else holds is updated in place. (In the same `eval` as the forward pass,
/// moments are; parameters go to new buffers, as the forward still holds them.)
/// Learning rate and step are plain values, so a schedule costs nothing.
/// Throws `aspis::Error(kUsage)` when counts, shapes, dtypes or numbers do not fit.
AdamWResult adamw(std::vector<mlx::core::array> params, std::vector<mlx::core::array> gradients,
                  std::vector<mlx::core::array> m, std::vector<mlx::core::array> v, const std::vector<bool>& decay,
                  const AdamWOptions& options, const StepControl& control, mlx::core::StreamOrDevice s = {});

/// The same out of MLX operations: oracle and fallback.
AdamWResult adamw_composed(const std::vector<mlx::core::array>& params,
                           const std::vector<mlx::core::array>& gradients, const std::vector<mlx::core::array>& m,
                           const std::vector<mlx::core::array>& v, const std::vector<bool>& decay,
                           const AdamWOptions& options, const StepControl& control,
                           mlx::core::StreamOrDevice s = {});

}  // namespace aspis
