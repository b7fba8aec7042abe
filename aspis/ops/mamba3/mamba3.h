#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

namespace aspis {

namespace mx = mlx::core;

/// Which values of a key or query turn together.
enum class RotaryPairing {
  kAdjacent,  ///< (2i, 2i + 1): the published SISO kernels
  kHalf,      ///< (i, i + N / 2): the published MIMO kernels
};

/// How the data-dependent A comes from its projection.
enum class AActivation {
  kHeavyTail,  ///< -(1 + v) for v >= 0, -1 / (1 - v) below
  kSoftplus,   ///< -softplus(v): the first public release
};

/// What a layer of Mamba-3 remembers. Shapes use S sequences (B without
/// `cu_seqlens`), H heads, R rank, P head dimension, N state, A angles.
struct Mamba3State {
  mx::array angle;  ///< {S, H, A}: phase of the last token, in [0, 2 pi)
  mx::array ssm;    ///< {S, H, P, N}
  mx::array k;      ///< {S, R, H, N}: last key, biased and rotated
  mx::array v;      ///< {S, H, P}: last x
};

struct Mamba3Options {
  std::optional<mx::array> angle = {};            ///< {B, L, A}, A <= N / 2: no rotation without it
  std::optional<mx::array> dt_bias = {};          ///< {H}
  std::optional<mx::array> B_norm_weight = {};    ///< {N}: RMS norm of B over N; none without it
  std::optional<mx::array> C_norm_weight = {};    ///< {N}
  std::optional<mx::array> B_bias = {};           ///< {H, R, N}, added after the norm
  std::optional<mx::array> C_bias = {};           ///< {H, R, N}
  std::optional<mx::array> D = {};                ///< {H}
  std::optional<mx::array> z = {};                ///< {B, L, H, P}: gate
  std::optional<mx::array> mimo_x = {};           ///< {H, R, P}: x of rank r is x mimo_x^r; needed for R > 1
  std::optional<mx::array> mimo_z = {};           ///< {H, R, P}: the gate of rank r is z mimo_z^r
  std::optional<mx::array> mimo_o = {};           ///< {H, R, P}: weights of the sum over ranks
  std::optional<mx::array> out_norm_weight = {};  ///< {H, P}: RMS norm over P before the gate; none without it
  RotaryPairing pairing = RotaryPairing::kAdjacent;
  AActivation A_activation = AActivation::kHeavyTail;
  double A_floor = 1e-4;  ///< A is at most -A_floor; no gradient where that holds
  float eps = 1e-5f;      ///< of all norms
  std::optional<Mamba3State> initial_state = {};
  std::vector<int32_t> cu_seqlens = {};  ///< packed sequences of a batch of one, see ops/common/packing.h
  /// 0: forward as a recurrence with the state in registers where the rank is 1, 2, 4
  /// or 8; a positive value: as matrix products over chunks of that many tokens.
  /// Gradients go by chunks either way. Results differ in rounding only.
  int chunk_size = 0;
};

/// The operator of Mamba-3 (arXiv 2603.15569), SISO (R = 1) and MIMO, from the
/// projections of a block to the value before its output projection:
///
///     dt = softplus(dd_dt + dt_bias);  A = min(-f(dd_A), -A_floor);  lambda = sigmoid(trap)
///     phi_t = phi_{t-1} + pi tanh(angle_t) dt_t               (mod 2 pi)
///     k = Rot(phi) (norm(B) + B_bias);  q = Rot(phi) (norm(C) + C_bias);  v^r = x mimo_x^r
///     U_t = sum_r v_t^r (x) k_t^r
///     h_t = exp(A dt) (h_{t-1} + dt (1 - lambda) U_{t-1}) + dt lambda U_t        h {P, N}
///     y_t^r = h_t q_t^r + D v_t^r
///     out = sum_r mimo_o^r norm(y^r) silu(z mimo_z^r)                            (parts that are given)
///
/// @param x     {B, L, H, P}
/// @param B, C  {B, L, R, G, N}, H % G == 0; {B, L, G, N} for rank 1
/// @param dd_dt, dd_A, trap  {B, L, H}
/// @return {B, L, H, P} of x's dtype
///
/// Gradients flow to every array, states included. float16 and bfloat16 are
/// computed in float32. Throws `aspis::Error(kUsage)` for shapes, dtypes and
/// options that do not fit.
mx::array mamba3(const mx::array& x, const mx::array& B, const mx::array& C, const mx::array& dd_dt,
                 const mx::array& dd_A, const mx::array& trap, const Mamba3Options& options = {},
                 mx::StreamOrDevice s = {});

/// The same with the state after the last token of each sequence.
std::pair<mx::array, Mamba3State> mamba3_with_state(const mx::array& x, const mx::array& B, const mx::array& C,
                                                    const mx::array& dd_dt, const mx::array& dd_A,
                                                    const mx::array& trap, const Mamba3Options& options = {},
                                                    mx::StreamOrDevice s = {});

/// One token: x {B, H, P}; B, C {B, R, G, N} or {B, G, N}; dd_dt, dd_A, trap
/// {B, H}; in the options angle {B, A} and z {B, H, P}. Returns {out {B, H, P},
/// next state}.
std::pair<mx::array, Mamba3State> mamba3_step(const Mamba3State& state, const mx::array& x, const mx::array& B,
                                              const mx::array& C, const mx::array& dd_dt, const mx::array& dd_A,
                                              const mx::array& trap, const Mamba3Options& options = {},
                                              mx::StreamOrDevice s = {});

/// The state before the first token: zeros.
Mamba3State mamba3_zero_state(int sequences, int heads, int rank, int headdim, int state, int angles,
                              mx::Dtype dtype = mx::float32);

}  // namespace aspis
