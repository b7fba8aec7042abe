#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "aspis/ops/mamba3/mamba3.h"

/// The stages of `mamba3` that have a kernel, each with its composed version;
/// formulas in kernel/params.h. All arrays have one dtype, float32 or float64.
namespace aspis::mamba3_stages {

/// What the tokens weigh, all {B, L, H}.
struct Weights {
  mx::array dt, log, gamma, beta;
};

/// From dd_dt, dd_A, trap {B, L, H} and the options dt_bias, A_activation and A_floor.
Weights weights(const mx::array& dd_dt, const mx::array& dd_A, const mx::array& trap, const Mamba3Options& options,
                mx::Stream stream);

/// phi {B, L, H, A} of angle {B, L, A}, dt {B, L, H} and initial {S, H, A}, and that of
/// the last token of each sequence {S, H, A}.
std::pair<mx::array, mx::array> phase(const mx::array& angle, const mx::array& dt, const mx::array& initial,
                                      const std::vector<int32_t>& cu_seqlens, mx::Stream stream);

/// x {B, L, R, G, N} for each of `heads` heads, with bias {H, R, N} and turned by
/// phi {B, L, H, A} where they are given: {B, L, H, R, N}.
mx::array rotate(const mx::array& x, const std::optional<mx::array>& bias, const std::optional<mx::array>& phi,
                 int heads, RotaryPairing pairing, mx::Stream stream);

/// {y {B, L, H, R, P}, final {S, H, P, N}} of log, w, g {B, L, H}, v {B, L, H, R, P},
/// k, q {B, L, H, R, N} and initial {S, H, P, N}.
std::pair<mx::array, mx::array> core(const mx::array& log, const mx::array& w, const mx::array& g,
                                     const mx::array& v, const mx::array& k, const mx::array& q,
                                     const mx::array& initial, const std::vector<int32_t>& cu_seqlens,
                                     int64_t chunk, mx::Stream stream);

/// The phases of a call: angle {B, L, A}, dt {B, L, H}, and the phase {S, H, A} before.
struct Phases {
  mx::array angle, dt, initial;
};

/// What rank 1 without a norm goes through behind the core: out = y silu(z).
struct Finish {
  std::optional<mx::array> z;  ///< {B, L, H, P}
};

struct TurnedCore {
  mx::array y;  ///< {B, L, H, R, P}, or {B, L, H, P} with `finish`
  mx::array final;
  std::optional<mx::array> last_phi;  ///< {S, H, A} if there are phases
  bool skipped = false;               ///< y holds D v
};

/// The core of v^r = x mimo_x^r with k and q made from B and C {B, L, R, G, N} as
/// `rotate` and `phase` do it, without storing any of them where the recurrence runs,
/// which also adds D v {H}. x {B, L, H, P}, mimo_x {H, R, P}.
TurnedCore turned_core(const mx::array& log, const mx::array& w, const mx::array& g, const mx::array& x,
                       const std::optional<mx::array>& mimo_x, const mx::array& B, const mx::array& C,
                       const std::optional<mx::array>& B_bias, const std::optional<mx::array>& C_bias,
                       const std::optional<Phases>& phases, const mx::array& initial,
                       const std::vector<int32_t>& cu_seqlens, int64_t chunk, RotaryPairing pairing,
                       const std::optional<mx::array>& D, const std::optional<Finish>& finish, mx::Stream stream);

/// The last token of each sequence, a {B, L, ..} -> {S, ..}; of an empty one, `otherwise`.
mx::array last_tokens(const mx::array& a, const std::vector<int32_t>& cu_seqlens, const mx::array& otherwise,
                      mx::Stream stream);

/// The output {B, L, H, P} of y {B, L, H, R, P} and x {B, L, H, P}: skip, norm, gate
/// and the sum over ranks as the options D, mimo_x, out_norm_weight, z, mimo_z and
/// mimo_o ask for.
mx::array combine(const mx::array& y, const mx::array& x, const Mamba3Options& options, mx::Stream stream);

/// One token in one pass: {out, next angle, next ssm, next k} of state {angle, ssm, k, v},
/// x {B, H, P}, B and C {B, R, G, N}, dd_dt, dd_A, trap {B, H} and options with angle
/// {B, A} and z {B, H, P}. The gradient is that of `mamba3_with_state` over one token.
std::vector<mx::array> step(const Mamba3State& state, const mx::array& x, const mx::array& B, const mx::array& C,
                            const mx::array& dd_dt, const mx::array& dd_A, const mx::array& trap,
                            const Mamba3Options& options, mx::Stream stream);

/// Whether the composed version runs on `stream`.
bool runs_composed(mx::Stream stream);

}  // namespace aspis::mamba3_stages
