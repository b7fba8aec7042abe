#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace aspis::kernel {

/// One AdamW update (Loshchilov and Hutter 2019, as in `torch.optim.AdamW`) of
/// many dense tensors. T is float or double.
///
///     g' = g min(1, max_norm / (norm + 1e-6))     if max_norm > 0
///     m' = m + (1 - beta1) (g' - m)
///     v' = beta2 v + (1 - beta2) g'^2
///     p' = p (1 - lr weight_decay) - lr / (1 - beta1^t) m' / (sqrt(v') / sqrt(1 - beta2^t) + eps)
///
/// If *loss or *norm is not finite, p, m and v are only copied.
template <typename T>
struct AdamWParams {
  struct Part {
    int64_t size = 0;
    const T *p = nullptr, *g = nullptr, *m = nullptr, *v = nullptr;
    T *new_p = nullptr, *new_m = nullptr, *new_v = nullptr;  ///< each may be its input
    bool decay = false;
  };
  std::vector<Part> parts;
  double beta1 = 0, beta2 = 0, eps = 0, weight_decay = 0, max_norm = 0;
  double learning_rate = 0;
  int64_t step = 1;
  const T *norm = nullptr, *loss = nullptr;  ///< one value each, or null
};

/// The factors that are the same for all elements, worked out in double.
template <typename T>
struct AdamWFactors {
  T clip, one_minus_beta1, beta2, one_minus_beta2, inverse_root, eps, rate, keep;

  AdamWFactors(const AdamWParams<T>& a, bool decay) {
    const auto t = static_cast<double>(a.step);
    const double norm = a.norm ? static_cast<double>(*a.norm) : 0;
    clip = static_cast<T>(a.max_norm > 0 ? std::fmin(1.0, a.max_norm / (norm + 1e-6)) : 1.0);
    one_minus_beta1 = static_cast<T>(1 - a.beta1);
    beta2 = static_cast<T>(a.beta2);
    one_minus_beta2 = static_cast<T>(1 - a.beta2);
    inverse_root = static_cast<T>(1 / std::sqrt(1 - std::pow(a.beta2, t)));
    eps = static_cast<T>(a.eps);
    rate = static_cast<T>(a.learning_rate / (1 - std::pow(a.beta1, t)));
    keep = static_cast<T>(decay ? 1 - a.learning_rate * a.weight_decay : 1.0);
  }
};

}  // namespace aspis::kernel
