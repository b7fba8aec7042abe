#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <optional>

namespace aspis {

struct AttentionOptions {
  float scale = 0;      ///< factor of the scores; 0: 1 / sqrt(head dim)
  bool causal = false;  ///< query i sees the keys j <= i + S - L; needs S >= L
  /// Broadcast to {B, H, L, S}. Bool: true where a query may see a key. Floating
  /// point: added to the scaled scores; has a gradient.
  std::optional<mlx::core::array> mask = {};
};

/// Scaled dot-product attention for all heads (Vaswani et al. 2017):
/// softmax(scale q k^T + mask) v over the keys.
///
/// @param q  {B, L, H, Dh}, floating point; all three bfloat16 are read and written as
///           they are, with float32 arithmetic; other halves are computed in float32
/// @param k  {B, S, Hk, Dh}, S >= 1. H is a multiple of Hk, and H / Hk query heads in
///           a row share a head of keys and values (Ainslie et al. 2023)
/// @param v  {B, S, Hk, Dh}
/// @return {B, L, H, Dh} in the widest dtype of the three; 0 for a query that sees no key
///
/// Slices of one array of queries, keys and values are read in place. Gradients
/// for all three and for a mask that is added. Scores are never kept, the backward
/// computes them again; only the gradient of such a mask has their size.
/// Bit-equal for any number of threads. Throws `aspis::Error(kUsage)` for other
/// shapes, integer input, a scale that is not finite, and causal with S < L.
mlx::core::array attention(const mlx::core::array& q, const mlx::core::array& k, const mlx::core::array& v,
                           const AttentionOptions& options = {}, mlx::core::StreamOrDevice s = {});

/// The same out of MLX operations, with all scores {B, H, L, S} in memory:
/// oracle, export form and fallback. Checks nothing.
mlx::core::array attention_composed(const mlx::core::array& q, const mlx::core::array& k,
                                    const mlx::core::array& v, const AttentionOptions& options = {},
                                    mlx::core::StreamOrDevice s = {});

/// Attention inside the windows of a map (Liu et al. 2021, without shift and bias):
/// cut into windows of side x side from the first corner on, smaller ones at the
/// end of a line or column if `side` does not divide it; every token sees those of
/// its window. Gives what padding to whole windows, partition, attention with the
/// padded keys masked, and the way back give, without any of these copies.
///
/// @param q  {B, Y, X, H, Dh}; dtypes as for `attention`
/// @param k  {B, Y, X, Hk, Dh}
/// @param v  {B, Y, X, Hk, Dh}
/// @param scale  0: 1 / sqrt(head dim)
/// @return {B, Y, X, H, Dh}
///
/// Throws `aspis::Error(kUsage)` for other shapes and side < 1.
mlx::core::array window_attention(const mlx::core::array& q, const mlx::core::array& k, const mlx::core::array& v,
                                  int side, float scale = 0, mlx::core::StreamOrDevice s = {});

/// The same by padding, partition, `attention_composed` and the way back. Checks nothing.
mlx::core::array window_attention_composed(const mlx::core::array& q, const mlx::core::array& k,
                                           const mlx::core::array& v, int side, float scale = 0,
                                           mlx::core::StreamOrDevice s = {});

}  // namespace aspis
