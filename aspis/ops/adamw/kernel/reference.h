#pragma once

#include <cmath>

#include "aspis/ops/adamw/kernel/params.h"

namespace aspis::kernel {

/// The definition for one element in double, without guard: `g` is already
/// scaled and clipped.
struct AdamWElement {
  double p, m, v;

  void step(double g, double lr, int64_t t, bool decay, const AdamWConstants& c) {
    if (decay) p -= lr * c.weight_decay * p;
    m = c.beta1 * m + (1 - c.beta1) * g;
    v = c.beta2 * v + (1 - c.beta2) * g * g;
    const double m_hat = m / (1 - std::pow(c.beta1, static_cast<double>(t)));
    const double v_hat = v / (1 - std::pow(c.beta2, static_cast<double>(t)));
    p -= lr * m_hat / (std::sqrt(v_hat) + c.eps);
  }
};

}  // namespace aspis::kernel
