#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <cstdint>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

namespace aspis {

namespace mx = mlx::core;

/// Options of the state space dual form of Mamba-2. Shapes use B batch,
/// L length, H heads, P head dimension, G groups of B and C, N state size, and
/// S sequences: `cu_seqlens.size() - 1`, or B without it.
struct SsdOptions {
  std::optional<mx::array> D = {};              ///< {H} or {H, P}: adds D x_t to the output
  std::optional<mx::array> z = {};              ///< {B, L, H, P}: multiplies the output by silu(z_t)
  std::optional<mx::array> dt_bias = {};        ///< {H}: added to dt before the softplus
  std::optional<mx::array> initial_state = {};  ///< {S, H, P, N}; zero if absent
  bool dt_softplus = false;                     ///< dt = softplus(dt + bias), identity above 20
  /// dt is clipped to these afterwards, also without softplus; no gradient outside.
  std::pair<double, double> dt_limit = {0, std::numeric_limits<double>::infinity()};
  std::optional<mx::array> seq_idx = {};  ///< {B, L} int32: packed sequences, see ops/common/packing.h
  std::vector<int32_t> cu_seqlens = {};   ///< packed sequences of a batch of one, each with its states
  /// 0: forward as a recurrence with the state in registers, the faster one. A
  /// positive value: as matrix products over chunks of that many tokens. Gradients
  /// go by chunks either way. Results differ in rounding only.
  int chunk_size = 0;
};

/// Mamba-2's recurrence with a scalar decay a head (Dao and Gu 2024, arXiv
/// 2405.21060, section 6):
///
///     dt_t = clip(softplus(dt_t + dt_bias), dt_limit)
///     h_t  = exp(dt_t A) h_{t-1} + dt_t x_t (x) B_t      h {P, N}, B and C of the head's group
///     y_t  = h_t C_t + D x_t
///     out_t = y_t silu(z_t)                              (if z)
///
/// @param x     {B, L, H, P}; rows may have gaps (slices)
/// @param dt    {B, L, H}
/// @param A     {H}; negative values decay
/// @param B, C  {B, L, G, N} with H % G == 0, or {B, L, N}
/// @return {B, L, H, P} of x's dtype
///
/// Gradients flow to every array but seq_idx, the states included. float16 and
/// bfloat16 are computed in float32. Throws `aspis::Error(kUsage)` for shapes,
/// dtypes and options that do not fit.
mx::array ssd(const mx::array& x, const mx::array& dt, const mx::array& A, const mx::array& B, const mx::array& C,
              const SsdOptions& options = {}, mx::StreamOrDevice s = {});

/// The same with the state after the last token of each sequence: {out,
/// final_state {S, H, P, N} float32 (float64 for float64 input)}.
std::pair<mx::array, mx::array> ssd_with_state(const mx::array& x, const mx::array& dt, const mx::array& A,
                                               const mx::array& B, const mx::array& C,
                                               const SsdOptions& options = {}, mx::StreamOrDevice s = {});

/// One token: state {B, H, P, N}; x, z {B, H, P}; dt {B, H}; B, C {B, N} or
/// {B, G, N}. Returns {out {B, H, P}, next state}. Of the options, D, z,
/// dt_bias, dt_softplus and dt_limit apply.
std::pair<mx::array, mx::array> ssd_step(const mx::array& state, const mx::array& x, const mx::array& dt,
                                         const mx::array& A, const mx::array& B, const mx::array& C,
                                         const SsdOptions& options = {}, mx::StreamOrDevice s = {});

}  // namespace aspis
