#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace aspis {

struct AdamWOptions {
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  double weight_decay = 0;
  double max_norm = 0;  ///< clip the gradient to this global norm; 0: no clipping
};

struct AdamWResult {
  std::vector<mlx::core::array> parameters, first, second;
};

/// One update of all parameters by AdamW (Loshchilov and Hutter 2019; formula
/// and order as `torch.optim.AdamW`, see README.md) in one primitive.
///
/// @param parameters, gradients, first, second  arrays of equal shapes at equal
///        places; parameters and moments all float32 or all float64, gradients
///        of any floating dtype
/// @param decay  whether `weight_decay` applies, one per parameter
/// @param step   1 for the first update
/// @param norm   scalar, the global norm of the gradients: needed for clipping
///               by min(1, max_norm / (norm + 1e-6))
/// @param loss   scalar
/// @return the new parameters and moments, lazily. If `norm` or `loss` is given
///         and is not finite, they are the old ones, bit for bit.
///
/// An input array that nobody else holds gives its buffer to the result, so a
/// caller that drops the old arrays before evaluation updates in place.
/// Throws `aspis::Error(kUsage)` for lists, shapes, dtypes or numbers that do
/// not fit. There is no gradient, and no back end but the CPU's.
AdamWResult adamw(const std::vector<mlx::core::array>& parameters, const std::vector<mlx::core::array>& gradients,
                  const std::vector<mlx::core::array>& first, const std::vector<mlx::core::array>& second,
                  const std::vector<bool>& decay, int64_t step, double learning_rate, const AdamWOptions& options,
                  const std::optional<mlx::core::array>& norm = std::nullopt,
                  const std::optional<mlx::core::array>& loss = std::nullopt, mlx::core::StreamOrDevice s = {});

}  // namespace aspis
