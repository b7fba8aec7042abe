#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <optional>
#include <utility>

namespace aspis {

namespace mx = mlx::core;

/// Options of the Mamba-1 selective scan. Shapes use B batch, L length,
/// D channels, N state size, G groups of B and C.
struct ScanOptions {
  std::optional<mx::array> D;              ///< {D}: adds D_d u_t to the output
  std::optional<mx::array> z;              ///< {B, L, D}: multiplies the output by silu(z_t)
  std::optional<mx::array> delta_bias;     ///< {D}: added to delta before the softplus
  std::optional<mx::array> initial_state;  ///< {B, D, N} float32; zero if absent
  bool delta_softplus = false;             ///< dt = softplus(delta + bias), identity above 20
  bool reverse = false;                    ///< visit tokens from last to first
  std::optional<mx::array> order;          ///< {L} int32: a permutation; step t visits token order[t]
};

/// Selective scan of Mamba-1 (Gu and Dao 2023, algorithm 2; Euler step for B,
/// zero-order hold for A):
///
///     dt_t = delta_t + delta_bias        (then softplus if delta_softplus)
///     x_t  = exp(dt_t A) x_{t-1} + dt_t B_t u_t
///     y_t  = sum_n C_{t,n} x_{t,n} + D u_t
///     out_t = y_t silu(z_t)              (if z)
///
/// @param u, delta  {B, L, D}; rows may have gaps (slices)
/// @param A         {D, N}
/// @param B, C      {B, L, N}, {B, L, G, N} with D % G == 0, or constant {D, N}
/// @return {B, L, D} of u's dtype (float32 or float64)
///
/// With `reverse` or `order` the recurrence runs over the tokens in that order
/// and each output is stored at its token's place; no permuted copy is made.
/// Throws `aspis::Error(kUsage)` on shapes or dtypes that do not fit. Gradients
/// flow to every array, the states included.
mx::array selective_scan(const mx::array& u, const mx::array& delta, const mx::array& A, const mx::array& B,
                         const mx::array& C, const ScanOptions& options = {}, mx::StreamOrDevice s = {});

/// The same with the state after the last visited token: {out, last_state},
/// last_state {B, D, N} float32 (float64 for float64 input).
std::pair<mx::array, mx::array> selective_scan_with_state(const mx::array& u, const mx::array& delta,
                                                          const mx::array& A, const mx::array& B,
                                                          const mx::array& C, const ScanOptions& options = {},
                                                          mx::StreamOrDevice s = {});

/// One token: state {B, D, N}; u, delta, z {B, D}; B, C {B, N}, {B, G, N} or
/// constant {D, N}. Returns {out {B, D}, next state}. Of the options, D, z,
/// delta_bias and delta_softplus apply.
std::pair<mx::array, mx::array> selective_scan_step(const mx::array& state, const mx::array& u,
                                                    const mx::array& delta, const mx::array& A,
                                                    const mx::array& B, const mx::array& C,
                                                    const ScanOptions& options = {}, mx::StreamOrDevice s = {});

}  // namespace aspis
