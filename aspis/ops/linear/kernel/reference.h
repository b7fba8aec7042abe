#pragma once

#include "aspis/ops/linear/kernel/params.h"

namespace aspis::kernel {

/// The definition, one dot product after the other.
template <typename T>
void linear_reference(const LinearParams<T>& p) {
  for (int64_t r = 0; r < p.rows; r++) {
    for (int64_t o = 0; o < p.out; o++) {
      T sum = p.bias ? p.bias[o] : T(0);
      for (int64_t i = 0; i < p.in; i++) sum += p.x[r * p.x_stride + i] * p.weight[o * p.weight_stride + i];
      p.y[r * p.out + o] = sum;
    }
  }
}

template <typename T>
void linear_vjp_reference(const LinearVjpParams<T>& p) {
  for (int64_t i = 0; p.dx && i < p.rows * p.in; i++) p.dx[i] = 0;
  for (int64_t i = 0; p.dweight && i < p.out * p.in; i++) p.dweight[i] = 0;
  for (int64_t o = 0; p.dbias && o < p.out; o++) p.dbias[o] = 0;
  for (int64_t r = 0; r < p.rows; r++) {
    for (int64_t o = 0; o < p.out; o++) {
      const T g = p.dy[r * p.dy_stride + o];
      if (p.dbias) p.dbias[o] += g;
      for (int64_t i = 0; i < p.in; i++) {
        if (p.dx) p.dx[r * p.in + i] += g * p.weight[o * p.weight_stride + i];
        if (p.dweight) p.dweight[o * p.in + i] += g * p.x[r * p.x_stride + i];
      }
    }
  }
}

}  // namespace aspis::kernel
