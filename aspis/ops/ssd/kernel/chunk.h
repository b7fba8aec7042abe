#pragma once

#include <cstdint>

/// Small loops over one chunk of one head, apart from its matrix products. A
/// square {n, n} is stored with rows at distance `stride`, s over t: element
/// (s, t) says what token s gives to token t.
namespace aspis::kernel {

/// What decides how tokens of a chunk see each other.
template <typename T>
struct ChunkDecays {
  int64_t n = 0, stride = 0;
  const T* sums = nullptr;      ///< {n} running sums of dt A
  const T* segments = nullptr;  ///< null or {n}: tokens see each other where these are equal
  const T* weights = nullptr;   ///< {n} dt
};

template <typename T>
struct ChunkLoops {
  /// W = scores * decay * weight of s for t >= s, else 0.
  void (*weigh)(const ChunkDecays<T>& d, const T* scores, T* W);
  /// The same W and, for dW, what flows on: dscores += dW decay weight,
  /// spans = dW scores decay weight for t > s else 0, dweights_s = sum_t dW
  /// scores decay.
  void (*weigh_vjp)(const ChunkDecays<T>& d, const T* scores, const T* dW, T* W, T* dscores, T* spans,
                    T* dweights);
  /// dlog_k += sum over t >= k and s < k of spans(s, t).
  void (*span_sums)(int64_t n, int64_t stride, const T* spans, T* scratch, T* dlog);
  /// to_i = scale_i from_i for n rows.
  void (*scale_rows)(int64_t n, int64_t width, const T* scale, const T* from, int64_t from_stride, T* to,
                     int64_t to_stride);
  /// to_i += scale_i from_i.
  void (*add_rows)(int64_t n, int64_t width, const T* scale, const T* from, int64_t from_stride, T* to,
                   int64_t to_stride);
  /// dots_i = <a_i, b_i>.
  void (*row_dots)(int64_t n, int64_t width, const T* a, int64_t a_stride, const T* b, int64_t b_stride, T* dots);
  /// sum += a, both {n, width}; dots {width} = the products of a and b, summed
  /// over the rows.
  void (*add_column_dots)(int64_t n, int64_t width, const T* a, const T* b, int64_t stride, T* sum, T* dots);
  /// out_i = y_i = y_i + D x_i, then gated if z: out_i = y_i silu(z_i). D null,
  /// one value or {width}.
  void (*finish)(int64_t n, int64_t width, T* y, const T* x, int64_t x_stride, const T* D, bool channel_D,
                 const T* z, int64_t z_stride, T* out, int64_t out_stride, T* before_gate);
  /// G = dout silu(z), dz = dout y silu'(z), n values.
  void (*gate_vjp)(int64_t n, const T* dout, const T* y, const T* z, T* G, T* dz);
  /// dx_i += D G_i; dD += G_i x_i ({width}, summed later for one value a head).
  void (*skip_vjp)(int64_t n, int64_t width, const T* G, const T* x, int64_t x_stride, const T* D, bool channel_D,
                   T* dx, int64_t dx_stride, T* dD);
  /// dt {tokens of one head at distance `stride`} after bias, softplus and
  /// clip.
  void (*time_steps)(int64_t n, const T* raw, T bias, bool softplus, T low, T high, T* dt);
  /// The derivative of that by the raw value.
  void (*time_slopes)(int64_t n, const T* raw, T bias, bool softplus, T low, T high, T* slopes);
  /// e_i = exp(x_i), x_i <= 0.
  void (*exponentials)(int64_t n, const T* x, T* e);
  /// One head of one token: state' = a state + (dt x) B, y = state' C, {P, N}
  /// rows.
  void (*step)(int64_t headdim, int64_t state, T a, T dt, const T* x, const T* B, const T* C, const T* from, T* to,
               T* y);
};

/// The loops of the instruction set in use.
template <typename T>
const ChunkLoops<T>& chunk_loops();

}  // namespace aspis::kernel
