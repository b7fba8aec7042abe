#pragma once

#include <cmath>

#include "aspis/ops/linear/kernel/params.h"

namespace aspis::kernel {

template <typename T>
T activation_reference(Activation kind, T z) {
  const T slope = std::sqrt(T(2) / T(3.14159265358979323846));
  switch (kind) {
    case Activation::kRelu:
      return z < 0 ? T(0) : z;
    case Activation::kSilu:
      return z / (1 + std::exp(-z));
    case Activation::kGelu:
      return z * std::erfc(-z * std::sqrt(T(0.5))) / 2;
    case Activation::kGeluTanh:
      return z / (1 + std::exp(-2 * slope * (z + T(0.044715) * z * z * z)));
    default:
      return z;
  }
}

template <typename T>
T activation_gradient_reference(Activation kind, T z) {
  const T pi = T(3.14159265358979323846), slope = std::sqrt(T(2) / pi);
  const auto gate = [](T u) { return 1 / (1 + std::exp(-u)); };
  switch (kind) {
    case Activation::kRelu:
      return z > 0 ? T(1) : T(0);
    case Activation::kSilu:
      return gate(z) * (1 + z * gate(-z));
    case Activation::kGelu:
      return std::erfc(-z * std::sqrt(T(0.5))) / 2 + z * std::exp(-z * z / 2) / std::sqrt(2 * pi);
    case Activation::kGeluTanh: {
      const T u = 2 * slope * (z + T(0.044715) * z * z * z), du = 2 * slope * (1 + T(0.134145) * z * z);
      return gate(u) * (1 + z * du * gate(-u));
    }
    default:
      return T(1);
  }
}

/// The definition, one dot product after the other.
template <typename T>
void linear_reference(const LinearParams<T>& p) {
  for (int64_t r = 0; r < p.rows; r++) {
    for (int64_t o = 0; o < p.out; o++) {
      T sum = p.bias ? p.bias[o] : T(0);
      for (int64_t i = 0; i < p.in; i++) sum += p.x[r * p.x_stride + i] * p.weight[o * p.weight_stride + i];
      if (p.end.pre) p.end.pre[r * p.out + o] = sum;
      sum = activation_reference(p.end.activation, sum);
      if (p.end.residual) sum += p.end.residual[r * p.end.residual_stride + o];
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
      T g = p.dy[r * p.dy_stride + o];
      if (p.activation != Activation::kNone)
        g *= activation_gradient_reference(p.activation, p.pre[r * p.out + o]);
      if (p.dbias) p.dbias[o] += g;
      for (int64_t i = 0; i < p.in; i++) {
        if (p.dx) p.dx[r * p.in + i] += g * p.weight[o * p.weight_stride + i];
        if (p.dweight) p.dweight[o * p.in + i] += g * p.x[r * p.x_stride + i];
      }
    }
  }
}

}  // namespace aspis::kernel
