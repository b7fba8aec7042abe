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
};

template <typename T>
const RotaryLoops<T>& rotary_loops();

}  // namespace aspis::kernel
