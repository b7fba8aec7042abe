#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

namespace aspis {

namespace mx = mlx::core;

/// Options of the Mamba-1 selective scan. Shapes use B batch, L length,
/// D channels, N state size, G groups of B and C, and S sequences:
/// `cu_seqlens.size() - 1`, or B without it.
struct ScanOptions {
  std::optional<mx::array> D;              ///< {D}: adds D_d u_t to the output
  std::optional<mx::array> z;              ///< {B, L, D}: multiplies the output by silu(z_t)
  std::optional<mx::array> delta_bias;     ///< {D}: added to delta before the softplus
  std::optional<mx::array> initial_state;  ///< {S, D, N} float32; zero if absent
  bool delta_softplus = false;             ///< dt = softplus(delta + bias), identity above 20
  bool reverse = false;                    ///< visit the tokens of a sequence from last to first
  std::optional<mx::array> order;          ///< {L} int32: a permutation; step t visits token order[t]
  /// Packed sequences, see ops/common/packing.h; not together with `order`.
  /// {B, L} int32, read when the graph is built. With `reverse` every row is
  /// visited from its end, and the initial state belongs to that.
  std::optional<mx::array> seq_idx;
  std::vector<int32_t> cu_seqlens;  ///< packed sequences of a batch of one, each with its states
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
/// @param A         {D, N}, complex64 for complex states
/// @param B, C      {B, L, N}, {B, L, G, N} with D % G == 0, or constant {D, N}
/// @return {B, L, D} of u's dtype (float32 or float64)
///
/// With `reverse` or `order` the recurrence runs over the tokens in that order
/// and each output is stored at its token's place; no permuted copy is made.
/// Where few channels leave cores without work, long sequences are cut into
/// chunks that run in parallel (`planned_cores` in base/parallel.h); results then
/// differ in rounding only.
/// Throws `aspis::Error(kUsage)` on shapes or dtypes that do not fit. Gradients
/// flow to every array, the states included.
///
/// With a complex64 A, states are complex64 and B and C may be (real ones are
/// widened); y_t = 2 Re(sum_n C_{t,n} x_{t,n}) + D u_t, the conjugate half of the
/// states being implied (operators of Mamba-1's CUDA code, S4D). u, delta, z,
/// D and the result stay real. The gradient of a complex array x + i y is dL/dx + i
/// dL/dy, so that dL = Re(sum conj(g) d(x + i y)), which is PyTorch's convention. An
/// angle dt Im A keeps the digits that float32 has of it.
mx::array selective_scan(const mx::array& u, const mx::array& delta, const mx::array& A, const mx::array& B,
                         const mx::array& C, const ScanOptions& options = {}, mx::StreamOrDevice s = {});

/// The same with the state after the last visited token of each sequence: {out,
/// last_state}, last_state {S, D, N} float32 (float64 for float64 input).
std::pair<mx::array, mx::array> selective_scan_with_state(const mx::array& u, const mx::array& delta,
                                                          const mx::array& A, const mx::array& B,
                                                          const mx::array& C, const ScanOptions& options = {},
                                                          mx::StreamOrDevice s = {});

/// One token: state {B, D, N}; u, delta, z {B, D}; B, C {B, N}, {B, G, N} or
/// constant {D, N}. Returns {out {B, D}, next state}. Of the options, D, z,
/// delta_bias and delta_softplus apply. Gradients flow to every array.
std::pair<mx::array, mx::array> selective_scan_step(const mx::array& state, const mx::array& u,
                                                    const mx::array& delta, const mx::array& A, const mx::array& B,
                                                    const mx::array& C, const ScanOptions& options = {},
                                                    mx::StreamOrDevice s = {});

}  // namespace aspis
