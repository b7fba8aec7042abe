#pragma once

#include <cmath>

#include "aspis/ops/adamw/kernel/params.h"

namespace aspis::kernel {

/// The definition for one element in double, written from the paper (algorithm
/// 2 with PyTorch's order of decay) without the kernel's factors: the oracle of
/// the tests. `clip` is the factor of the gradient.
inline void adamw_reference(double& p, double g, double& m, double& v, double clip, double beta1, double beta2,
                            double eps, double decay, double rate, int64_t step) {
  g *= clip;
  m = beta1 * m + (1 - beta1) * g;
  v = beta2 * v + (1 - beta2) * g * g;
  double power1 = 1, power2 = 1;
  for (int64_t i = 0; i < step; i++) {
    power1 *= beta1;
    power2 *= beta2;
  }
  p -= rate * decay * p;
  p -= rate * (m / (1 - power1)) / (std::sqrt(v / (1 - power2)) + eps);
}

}  // namespace aspis::kernel
