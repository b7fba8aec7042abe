#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <optional>
#include <utility>

namespace aspis {

namespace mx = mlx::core;

/// Options of the depthwise 1-D convolution.
struct Conv1dOptions {
  std::optional<mx::array> bias;           ///< {D}
  std::optional<mx::array> initial_state;  ///< {B, W-1, D}: the inputs before the first token; causal only
  bool silu = false;                       ///< apply SiLU to the result
  bool symmetric = false;                  ///< centred window (zero padding) instead of a causal one
  bool reverse = false;                    ///< run over the tokens from last to first
  std::optional<mx::array> order;          ///< {L} int32 permutation; step t visits token order[t]
};

/// Depthwise convolution over tokens, causal or symmetric:
///
///     pre_t = bias + sum_k weight_k x_{t-l+k},  l = W-1 (causal) or floor((W-1)/2)
///     out_t = silu(pre_t) or pre_t
///
/// @param x       {B, L, D}; rows may have gaps
/// @param weight  {D, W}, any W >= 1
/// @return {B, L, D} of x's dtype (float32 or float64)
mx::array causal_conv1d(const mx::array& x, const mx::array& weight, const Conv1dOptions& options = {},
                        mx::StreamOrDevice s = {});

/// The same with the last W-1 inputs (left-padded by the initial state or
/// zeros): {out, final_state {B, W-1, D}}. Causal only.
std::pair<mx::array, mx::array> causal_conv1d_with_state(const mx::array& x, const mx::array& weight,
                                                         const Conv1dOptions& options = {},
                                                         mx::StreamOrDevice s = {});

/// One token: state {B, W-1, D}, x {B, D}. Returns {out {B, D}, next state}.
std::pair<mx::array, mx::array> causal_conv1d_step(const mx::array& state, const mx::array& x,
                                                   const mx::array& weight, const Conv1dOptions& options = {},
                                                   mx::StreamOrDevice s = {});

}  // namespace aspis
