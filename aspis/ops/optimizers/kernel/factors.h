#pragma once

#include <cmath>
#include <cstdint>

namespace aspis::kernel {

/// The numbers of one step of any of these optimizers, made in double and rounded once.
template <typename T>
struct UpdateFactors {
  T gradient = 1, rate = 0, average_decay = 0;
  T decay = 0, keep = 1;  ///< weight decay, and 1 - lr decay
  T beta1 = 0, rest1 = 1, beta2 = 0, rest2 = 1;
  T inverse1 = 1;  ///< 1 / (1 - beta1^t)
  T root2 = 1;     ///< 1 / sqrt(1 - beta2^t)
  T eps = 0;
  bool nesterov = false;

  UpdateFactors(double lr, double gradient_factor, double average, double weight_decay)
      : gradient(static_cast<T>(gradient_factor)),
        rate(static_cast<T>(lr)),
        average_decay(static_cast<T>(average)),
        decay(static_cast<T>(weight_decay)),
        keep(static_cast<T>(1 - lr * weight_decay)) {}

  void betas(double b1, double b2, int64_t t) {
    beta1 = static_cast<T>(b1);
    rest1 = static_cast<T>(1 - b1);
    beta2 = static_cast<T>(b2);
    rest2 = static_cast<T>(1 - b2);
    inverse1 = static_cast<T>(1 / (1 - std::pow(b1, static_cast<double>(t))));
    root2 = static_cast<T>(1 / std::sqrt(1 - std::pow(b2, static_cast<double>(t))));
  }
};

}  // namespace aspis::kernel
