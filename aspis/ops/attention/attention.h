#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

namespace aspis {

struct AttentionOptions {
  float scale = 0;      ///< factor of the scores; 0: 1 / sqrt(head dim)
  bool causal = false;  ///< query i sees the keys j <= i + S - L; needs S >= L
};

/// Scaled dot-product attention for all heads (Vaswani et al. 2017):
/// softmax(scale q k^T) v over the keys.
///
/// @param q  {B, L, H, Dh}, floating point; float16 and bfloat16 are computed in float32
/// @param k  {B, S, H, Dh}, S >= 1
/// @param v  {B, S, H, Dh}
/// @return {B, L, H, Dh} in the widest dtype of the three
///
/// Slices of one array of queries, keys and values are read in place. Gradients
/// for all three; scores are never kept, the backward computes them again.
/// Bit-equal for any number of threads. Throws `aspis::Error(kUsage)` for other
/// shapes, integer input, a scale that is not finite, and causal with S < L.
mlx::core::array attention(const mlx::core::array& q, const mlx::core::array& k, const mlx::core::array& v,
                           const AttentionOptions& options = {}, mlx::core::StreamOrDevice s = {});

/// The same out of MLX operations, with all scores {B, H, L, S} in memory:
/// oracle, export form and fallback. Checks nothing.
mlx::core::array attention_composed(const mlx::core::array& q, const mlx::core::array& k,
                                    const mlx::core::array& v, const AttentionOptions& options = {},
                                    mlx::core::StreamOrDevice s = {});

}  // namespace aspis
