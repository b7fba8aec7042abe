#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <optional>
#include <vector>

namespace aspis {

/// Weights and visiting order of one branch; float32 or float64 like h.
struct MambaBlockBranch {
  mlx::core::array conv_weight;                ///< {I, K}
  mlx::core::array conv_bias;                  ///< {I}
  mlx::core::array x_proj;                     ///< {R + 2 N, I}
  mlx::core::array dt_proj;                    ///< {I, R}
  mlx::core::array dt_bias;                    ///< {I}
  mlx::core::array A;                          ///< {I, N}, usually -exp(A_log)
  mlx::core::array D;                          ///< {I}
  bool reverse = false;                        ///< visit the tokens from last to first
  std::optional<mlx::core::array> order = {};  ///< {L} int32, a permutation: step t visits token order[t]
};

/// The Mamba-1 block without norm and residual as one operation (Gu and Dao 2023,
/// figure 3; mamba_inner_fn of state-spaces/mamba), with one or several branches
/// that share the two large projections:
///
///     x, z      = in_proj h                               W -> 2 I
///     u         = silu(conv(x))                           depthwise, causal, in visiting order
///     dt, B, C  = x_proj u                                I -> R + 2 N
///     y         = sum over branches of selective_scan(u, dt_proj dt, A, B, C, D, z, dt_bias), softplus
///     out       = out_proj y                              I -> W
///
/// @param h         {B, L, W}, L >= 1
/// @param in_proj   {2 I, W}
/// @param out_proj  {W, I}
/// @return {B, L, W} of h's dtype (halves are computed in float32)
///
/// Nothing between h and the result is kept: the backward computes it again, a
/// sample at a time. That takes little memory, and needs a few samples to keep
/// several cores busy. Gradients for all arrays but `order`. Bit-equal for any number of
/// threads. Throws `aspis::Error(kUsage)` on shapes or dtypes that do not fit.
mlx::core::array mamba_block(const mlx::core::array& h, const mlx::core::array& in_proj,
                             const std::vector<MambaBlockBranch>& branches, const mlx::core::array& out_proj,
                             mlx::core::StreamOrDevice s = {});

/// The same out of linear, causal_conv1d and selective_scan: oracle and fallback.
mlx::core::array mamba_block_composed(const mlx::core::array& h, const mlx::core::array& in_proj,
                                      const std::vector<MambaBlockBranch>& branches,
                                      const mlx::core::array& out_proj, mlx::core::StreamOrDevice s = {});

}  // namespace aspis
