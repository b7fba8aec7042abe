#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

namespace aspis {

namespace mx = mlx::core;

/// Options of the depthwise 1-D convolution. Axes: B batch, L tokens, D channels,
/// W taps, S sequences: `cu_seqlens.size() - 1`, or B without it.
struct Conv1dOptions {
  std::optional<mx::array> bias = {};           ///< {D}
  std::optional<mx::array> initial_state = {};  ///< {S, W-1, D}: the inputs before the first step; causal only
  bool silu = false;                            ///< apply SiLU to the result
  bool symmetric = false;                       ///< centred window (zero padding) instead of a causal one
  bool reverse = false;                         ///< run over the tokens from last to first
  /// {L} integers, a permutation: step t visits token order[t] (with `reverse`,
  /// order[L-1-t]).
  std::optional<mx::array> order = {};
  /// Packed sequences, see ops/common/packing.h; not together with `order`.
  /// {B, L} int32, read when the graph is built. No tap reaches into another sequence.
  std::optional<mx::array> seq_idx = {};
  std::vector<int32_t> cu_seqlens = {};  ///< packed sequences of a batch of one, each with its states
};

/// Depthwise convolution over tokens, causal (Mamba's) or symmetric ("same"
/// zero padding, an even W reaches further to the right):
///
///     pre_t = bias + sum_k weight_k x_{t-l+k},  l = W-1 (causal) or floor((W-1)/2)
///     out_t = silu(pre_t) or pre_t
///
/// x_t is the token of step t; each output is stored at its token's place, so no
/// permuted copy is made. Inputs before the first step come from
/// `initial_state` or are 0.
///
/// @param x       {B, L, D}, floating point. A slice along any axis and a
///                transposed view of channels-first data {B, D, L} are read in
///                place. float16 and bfloat16 are computed in float32
/// @param weight  {D, W}, any W >= 1; 2, 3 and 4 are the fast ones
/// @return {B, L, D} of x's dtype
///
/// Gradients flow to x, weight, bias and initial_state. Throws
/// `aspis::Error(kUsage)` for shapes, dtypes and options that do not fit. An
/// `order` that is not a permutation is refused if its values are known when the
/// graph is built; otherwise the results are NaN.
mx::array causal_conv1d(const mx::array& x, const mx::array& weight, const Conv1dOptions& options = {},
                        mx::StreamOrDevice s = {});

/// The same with the inputs of the last W-1 steps (left-padded by the initial
/// state or zeros): {out, final_state {S, W-1, D}}, both of x's dtype. Causal
/// only. The final state has gradients too, so that a sequence may be cut.
std::pair<mx::array, mx::array> causal_conv1d_with_state(const mx::array& x, const mx::array& weight,
                                                         const Conv1dOptions& options = {},
                                                         mx::StreamOrDevice s = {});

/// One token: state {B, W-1, D}, x {B, D}. Returns {out {B, D}, next state}. Of
/// the options only bias and silu may be set.
std::pair<mx::array, mx::array> causal_conv1d_step(const mx::array& state, const mx::array& x,
                                                   const mx::array& weight, const Conv1dOptions& options = {},
                                                   mx::StreamOrDevice s = {});

}  // namespace aspis
