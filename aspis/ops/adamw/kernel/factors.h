#pragma once

#include <cmath>

#include "aspis/ops/adamw/kernel/params.h"

namespace aspis::kernel {

/// The numbers of one AdamW step, made in double and rounded once.
template <typename T>
struct AdamWFactors {
  T gradient, keep, beta1, one_minus_beta1, beta2, one_minus_beta2;
  T rate;  ///< lr / (1 - beta1^t)
  T root;  ///< 1 / sqrt(1 - beta2^t)
  T eps;

  AdamWFactors(const AdamWConstants& c, double lr, int64_t step, double gradient_factor)
      : gradient(static_cast<T>(gradient_factor)),
        keep(static_cast<T>(1 - lr * c.weight_decay)),
        beta1(static_cast<T>(c.beta1)),
        one_minus_beta1(static_cast<T>(1 - c.beta1)),
        beta2(static_cast<T>(c.beta2)),
        one_minus_beta2(static_cast<T>(1 - c.beta2)),
        rate(static_cast<T>(lr / (1 - std::pow(c.beta1, static_cast<double>(step))))),
        root(static_cast<T>(1 / std::sqrt(1 - std::pow(c.beta2, static_cast<double>(step))))),
        eps(static_cast<T>(c.eps)) {}
};

}  // namespace aspis::kernel
