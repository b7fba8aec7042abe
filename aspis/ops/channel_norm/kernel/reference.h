#pragma once

#include <cmath>
#include <vector>

#include "aspis/ops/channel_norm/kernel/params.h"

namespace aspis::kernel {

/// The activations by their definitions.
template <typename T>
T activation_reference(Activation kind, T v) {
  switch (kind) {
    case Activation::kNone:
      return v;
    case Activation::kRelu:
      return v < 0 ? T(0) : v;
    case Activation::kSilu:
      return v / (1 + std::exp(-v));
    case Activation::kGelu:
      return v * std::erfc(-v / std::sqrt(T(2))) / 2;
    case Activation::kGeluTanh:
      return v / 2 * (1 + std::tanh(std::sqrt(T(0.636619772367581343)) * (v + T(0.044715) * v * v * v)));
  }
  return v;
}

/// The definition, in T: the oracle of the tests. No scratch.
template <typename T>
void channel_norm_reference(const ChannelNormParams<T>& p) {
  const int64_t each = p.channels / p.groups;
  const T n = static_cast<T>(p.rows * each);
  for (int64_t s = 0; s < p.samples; s++) {
    for (int64_t g = 0; g < p.groups; g++) {
      const auto over_group = [&](auto f) {
        for (int64_t r = 0; r < p.rows; r++) {
          for (int64_t c = g * each; c < (g + 1) * each; c++) f((s * p.rows + r) * p.channels + c, c);
        }
      };
      T mean = 0, var = 0;
      over_group([&](int64_t i, int64_t) { mean += p.x[i] / n; });
      over_group([&](int64_t i, int64_t) { var += (p.x[i] - mean) * (p.x[i] - mean) / n; });
      if (p.new_mean) {
        const T m = static_cast<T>(p.momentum);
        p.new_mean[g] = (1 - m) * p.running_mean[g] + m * mean;
        p.new_var[g] = (1 - m) * p.running_var[g] + m * var * n / (n > 1 ? n - 1 : T(1));
      }
      if (p.given_mean) mean = p.given_mean[g], var = p.given_var[g];
      const T root = std::sqrt(var + static_cast<T>(p.eps));
      if (p.mean) p.mean[s * p.groups + g] = mean;
      if (p.rstd) p.rstd[s * p.groups + g] = 1 / root;
      over_group([&](int64_t i, int64_t c) {
        const T z = (p.x[i] - mean) / root * (p.weight ? p.weight[c] : T(1)) + (p.bias ? p.bias[c] : T(0));
        p.y[i] = activation_reference(p.activation, z + (p.residual ? p.residual[i] : T(0)));
      });
    }
  }
}

}  // namespace aspis::kernel
