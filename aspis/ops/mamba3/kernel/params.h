#pragma once

#include <cstdint>

namespace aspis::kernel {

/// B batch, L length, H heads, R rank, P head dimension, N state, S rotary angles.
struct Mamba3Shape {
  int64_t batch = 0, length = 0, heads = 0, rank = 1, headdim = 0, state = 0, angles = 0;
  int64_t chunk = 64;      ///< tokens that are worked on together
  int64_t sequences = 0;   ///< packed sequences (batch 1), or 0: each sample is one
  bool recurrent = false;  ///< the forward core as a recurrence (spans.h) where that fits

  int64_t rows() const { return sequences > 0 ? sequences : batch; }
  int64_t tokens() const { return batch * length; }
  int64_t slots() const {
    return sequences > 0 ? length / chunk + sequences : batch * ((length + chunk - 1) / chunk);
  }
  int64_t state_size() const { return headdim * state; }
};

/// Which values of a vector of N turn together: neighbours (2i, 2i + 1), or
/// (i, i + N / 2).
enum class RotaryPairs : int { kAdjacent, kHalf };

/// From the vectors of a group to those of its heads: adds the head's bias and
/// turns the first S pairs by phi. y_{t, h, r} = Rot(phi_{t, h}) (x_{t, r, g(h)} + bias_{h, r}).
template <typename T>
struct RotaryParams {
  Mamba3Shape shape;  ///< angles 0: no rotation
  int64_t groups = 1;
  RotaryPairs pairs = RotaryPairs::kAdjacent;
  const T* x = nullptr;     ///< {tokens, R, G, N}
  const T* bias = nullptr;  ///< null or {H, R, N}
  const T* phi = nullptr;   ///< {tokens, H, S}
  T* y = nullptr;           ///< {tokens, H, R, N}
};

/// The recurrence of a head, everything dense (README.md, "core"):
///
///     y_t^r = (a_t h) q_t^r + g_t sum_r' (q_t^r k_t^r') v_t^r'
///     h     = a_t h + w_t sum_r v_t^r (x) k_t^r            a_t = exp(log_t), h {P, N}
template <typename T>
struct Mamba3CoreParams {
  Mamba3Shape shape;
  const int32_t* cu_seqlens = nullptr;                 ///< {sequences + 1} if there are any
  const T *log = nullptr, *w = nullptr, *g = nullptr;  ///< {B, L, H}, log <= 0
  const T* v = nullptr;                                ///< {B, L, H, R, P}
  const T *k = nullptr, *q = nullptr;  ///< {B, L, H, R, N}; null in spans.h: from `key` and `query`
  const T* initial = nullptr;          ///< {rows, H, P, N}
  T* y = nullptr;                      ///< {B, L, H, R, P}
  T* final = nullptr;                  ///< {rows, H, P, N}
  T* states = nullptr;                 ///< null or {slots, H, N, P}: before each chunk
  RotaryParams<T> key, query;          ///< what k and q are made from, block by block; phi of neither
  /// The three below for spans.h alone, as are k and q that are null.
  const T* scale = nullptr;  ///< null or {H, R, P}: v is {B, L, H, P}, and that of rank r is v scale^r
  const T* D = nullptr;      ///< null or {H}: y holds D v too
  /// Rank 1 only: `out` = (y + D v) silu(z) in the same pass; `y` is then null or takes what is before the gate.
  T* out = nullptr;      ///< {B, L, H, P}
  const T* z = nullptr;  ///< null or {B, L, H, P}
  /// The phases by which key and query turn grow along the way; null without angles.
  const T *angle = nullptr, *dt = nullptr;  ///< {B, L, S}, {B, L, H}
  const T* initial_phi = nullptr;           ///< {rows, H, S}
  T* last_phi = nullptr;                    ///< {rows, H, S}
};

template <typename T>
struct Mamba3CoreVjpParams {
  Mamba3CoreParams<T> in;     ///< with states
  const T* dy = nullptr;      ///< {B, L, H, R, P}
  const T* dfinal = nullptr;  ///< {rows, H, P, N}
  T *dlog = nullptr, *dw = nullptr, *dg = nullptr;
  T *dv = nullptr, *dk = nullptr, *dq = nullptr;
  T* dinitial = nullptr;
};

/// Gradients of the core with keys and queries made inside, and of what may follow it.
template <typename T>
struct Mamba3TurnedVjpParams {
  /// `key`, `query` and states as in the forward pass; with z, `y` is what was before
  /// the gate. k, q, out, final and last_phi are not used.
  Mamba3CoreParams<T> in;
  const T* dout = nullptr;       ///< {B, L, H, R, P}: of out, or of y where nothing follows
  const T* dfinal = nullptr;     ///< {rows, H, P, N}
  const T* dlast_phi = nullptr;  ///< null without angles
  T *dlog = nullptr, *dw = nullptr, *dg = nullptr, *dv = nullptr, *dinitial = nullptr;
  T *dB = nullptr, *dC = nullptr;            ///< {B, L, R, G, N}
  T *dB_bias = nullptr, *dC_bias = nullptr;  ///< null exactly if the bias is
  T *dangle = nullptr, *ddt = nullptr, *dinitial_phi = nullptr;
  T *dD = nullptr, *dz = nullptr, *dscale = nullptr;
};

/// What a token weighs, all {tokens, H}:
///
///     dt = softplus(dd_dt + dt_bias);  log = min(-f(dd_A), -A_floor) dt
///     gamma = dt sigmoid(trap);  beta = dt - gamma
template <typename T>
struct Mamba3WeightsParams {
  int64_t tokens = 0, heads = 0;
  bool heavy_tail = true;  ///< f(v) = 1 + v for v >= 0, 1 / (1 - v) below; else softplus(v)
  T A_floor = 0;
  const T *dd_dt = nullptr, *dd_A = nullptr, *trap = nullptr;
  const T* dt_bias = nullptr;  ///< null or {H}
  T *dt = nullptr, *log = nullptr, *gamma = nullptr, *beta = nullptr;
};

template <typename T>
struct Mamba3WeightsVjpParams {
  Mamba3WeightsParams<T> in;
  const T *ddt = nullptr, *dlog = nullptr, *dgamma = nullptr, *dbeta = nullptr;
  T *ddd_dt = nullptr, *ddd_A = nullptr, *dtrap = nullptr;
  T* dbias = nullptr;  ///< {H}, null exactly if dt_bias is
};

/// phi_t = (phi_{t-1} + pi tanh(angle_t) dt_t) mod 2 pi, per head and angle.
template <typename T>
struct Mamba3PhaseParams {
  Mamba3Shape shape;
  const int32_t* cu_seqlens = nullptr;
  const T* angle = nullptr;    ///< {B, L, S}
  const T* dt = nullptr;       ///< {B, L, H}
  const T* initial = nullptr;  ///< {rows, H, S}
  T* phi = nullptr;            ///< {B, L, H, S}
  T* last = nullptr;           ///< null or {rows, H, S}: of the last token, or the initial one without tokens
};

template <typename T>
struct Mamba3PhaseVjpParams {
  Mamba3PhaseParams<T> in;  ///< phi is not used
  const T* dphi = nullptr;
  T *dangle = nullptr, *ddt = nullptr, *dinitial = nullptr;
  const T* dlast = nullptr;  ///< null (zero) or {rows, H, S}
};

template <typename T>
struct RotaryVjpParams {
  RotaryParams<T> in;  ///< y holds what the forward pass wrote; x is not used
  const T* dy = nullptr;
  T* dx = nullptr;
  T* dbias = nullptr;  ///< null exactly if bias is
  T* dphi = nullptr;   ///< null without angles
};

/// From the outputs of the ranks to that of the token:
///
///     u^r = y^r + D x mimo_x^r;  n^r = u^r rsqrt(mean(u^r u^r) + eps) norm
///     out = sum_r mimo_o^r n^r silu(z mimo_z^r)
///
/// where what is null is left out.
template <typename T>
struct CombineParams {
  Mamba3Shape shape;
  T eps = 0;
  const T *y = nullptr, *x = nullptr;                               ///< {tokens, H, R, P}, {tokens, H, P}
  const T* D = nullptr;                                             ///< {H}
  const T *mimo_x = nullptr, *mimo_z = nullptr, *mimo_o = nullptr;  ///< {H, R, P}
  const T* z = nullptr;                                             ///< {tokens, H, P}
  const T* norm = nullptr;                                          ///< {H, P}
  T* out = nullptr;                                                 ///< {tokens, H, P}
};

/// Gradients; each is null exactly if what it belongs to is, but dy.
template <typename T>
struct CombineVjpParams {
  CombineParams<T> in;
  const T* dout = nullptr;
  T *dy = nullptr, *dx = nullptr, *dD = nullptr, *dmimo_x = nullptr, *dmimo_z = nullptr, *dmimo_o = nullptr,
    *dz = nullptr, *dnorm = nullptr;  ///< dx is there exactly if D is
};

/// One token from its projections to its output, everything dense: see mamba3.h for the
/// formulas. What is null is left out; `next_*` may be what they follow.
template <typename T>
struct Mamba3StepParams {
  int64_t batch = 0, heads = 0, rank = 1, groups = 1, headdim = 0, state = 0, angles = 0;
  RotaryPairs pairs = RotaryPairs::kAdjacent;
  bool heavy_tail = true;
  T A_floor = 0, eps = 0;
  const T *x = nullptr, *B = nullptr, *C = nullptr;                 ///< {B, H, P}, {B, R, G, N}
  const T *dd_dt = nullptr, *dd_A = nullptr, *trap = nullptr;       ///< {B, H}
  const T *angle = nullptr, *dt_bias = nullptr;                     ///< {B, S}, {H}
  const T *B_norm = nullptr, *C_norm = nullptr;                     ///< {N}
  const T *B_bias = nullptr, *C_bias = nullptr;                     ///< {H, R, N}
  const T *D = nullptr, *z = nullptr, *out_norm = nullptr;          ///< {H}, {B, H, P}, {H, P}
  const T *mimo_x = nullptr, *mimo_z = nullptr, *mimo_o = nullptr;  ///< {H, R, P}
  const T *phi = nullptr, *ssm = nullptr, *k = nullptr,
          *v = nullptr;  ///< {B, H, S}, {B, H, P, N}, {B, R, H, N}, {B, H, P}
  T *out = nullptr, *next_phi = nullptr, *next_ssm = nullptr, *next_k = nullptr;
};

}  // namespace aspis::kernel
