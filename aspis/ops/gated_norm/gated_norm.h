#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <optional>

namespace aspis {

namespace mx = mlx::core;

struct GatedNormOptions {
  std::optional<mx::array> z = {};       ///< the gate, of x's shape; none without it
  std::optional<mx::array> weight = {};  ///< {N}, ones without it
  std::optional<mx::array> bias = {};    ///< {N}, zeros without it; layer_norm_gated only
  int group_size = 0;                    ///< values that are normalised together; 0: all N
  bool norm_before_gate = false;         ///< false: norm(x silu(z)) (Mamba-2); true: norm(x) silu(z) (Mamba-3)
  double eps = 1e-5;
};

/// RMS norm of groups of the last axis with a SiLU gate (RMSNormGated of Mamba-2
/// and 3): v rsqrt(mean(v^2) + eps) weight, v = x silu(z), or the gate behind.
///
/// @param x {..., N}, N a multiple of group_size
/// @return shape and dtype of x; statistics and gate are computed in float32 for
///         float16 and bfloat16
///
/// Gradients flow to x, z and weight. Throws `aspis::Error(kUsage)` for shapes,
/// dtypes and options that do not fit.
mx::array rmsnorm_gated(const mx::array& x, const GatedNormOptions& options = {}, mx::StreamOrDevice s = {});

/// The same with the mean taken off, and with a bias.
mx::array layer_norm_gated(const mx::array& x, const GatedNormOptions& options = {}, mx::StreamOrDevice s = {});

/// Out of MLX operations: oracle, export form and fallback. `center` for layer norm.
mx::array gated_norm_composed(const mx::array& x, const GatedNormOptions& options, bool center,
                              mx::StreamOrDevice s = {});

}  // namespace aspis
