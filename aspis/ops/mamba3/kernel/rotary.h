#pragma once

#include <cstdint>

#include "aspis/ops/mamba3/kernel/params.h"

/// Loops of phase and rotary over the S angles of one head, per instruction set.
namespace aspis::kernel {

template <typename T>
struct RotaryLoops {
  /// turns_i = pi tanh(angle_i).
  void (*turns)(int64_t n, const T* angle, T* turns);
  /// d_i = d_i pi (1 - tanh(angle_i)^2).
  void (*turns_vjp)(int64_t n, const T* angle, T* d);
  /// phi_i = (phi_i + dt turns_i) mod 2 pi.
  void (*advance)(int64_t n, T dt, const T* turns, T* phi);
  /// cosine_i, sine_i of angles in [-2 pi, 2 pi].
  void (*sincos)(int64_t n, const T* phi, T* cosine, T* sine);
  /// Turns the first n pairs of v {N} in place; `sign` -1 turns back.
  void (*turn)(int64_t n, bool adjacent, int64_t N, const T* cosine, const T* sine, T sign, T* v);
  /// dphi_i += what dy says of a turn of y.
  void (*turn_gradient)(int64_t n, bool adjacent, int64_t N, const T* y, const T* dy, T* dphi);
  /// out = a + b, or a if b is null; `add_to`: to += a.
  void (*sum)(int64_t n, const T* a, const T* b, T* out);
  void (*add_to)(int64_t n, const T* a, T* to);
};

template <typename T>
const RotaryLoops<T>& rotary_loops();

}  // namespace aspis::kernel
