#pragma once

#include <cstdint>
#include <vector>

#include "aspis/simd/bf16.h"

namespace aspis::kernel {

/// Most states an optimizer keeps per parameter, the parameter included.
inline constexpr int kMaxUpdated = 3;

/// One parameter array of an optimizer step: `in` and `out` are the parameter
/// and its states in the optimizer's order. out[i] == in[i] updates in place.
template <typename T>
struct UpdateArray {
  int64_t n = 0;
  const T* gradient = nullptr;
  const T* in[kMaxUpdated] = {};
  T* out[kMaxUpdated] = {};
  bool decay = true;                    ///< weight decay applies
  int64_t rows = 0;                     ///< size of the first axis if there are several, else 0
  const Bf16* half_gradient = nullptr;  ///< read instead of `gradient` if given
  const T* average_in = nullptr;        ///< moving average of the parameter, or null
  T* average_out = nullptr;
  Bf16* half = nullptr;  ///< receives the parameter rounded, or null
};

/// What a step of any optimizer gets besides its own constants.
template <typename T>
struct UpdateParams {
  std::vector<UpdateArray<T>> arrays;
  double learning_rate = 0;
  int64_t step = 1;             ///< 1 for the first step
  double gradient_scale = 1;    ///< multiplies every gradient first
  double max_norm = 0;          ///< clip to this norm; 0: no clipping
  double average_decay = 0;     ///< average = decay average + (1 - decay) parameter
  const float* norm = nullptr;  ///< norm of the gradients as they come, or null
  const float* loss = nullptr;  ///< or null
  float* applied = nullptr;     ///< set to 1, or to 0 if the guard stopped the step
};

/// Constants of AdamW (Loshchilov and Hutter 2019), as torch.optim.AdamW:
///
///     g = gradient * factor           p = p (1 - lr decay)        (where decay applies)
///     m = beta1 m + (1 - beta1) g     v = beta2 v + (1 - beta2) g^2
///     p = p - lr / (1 - beta1^t) * m / (sqrt(v / (1 - beta2^t)) + eps)
struct AdamWConstants {
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0.01;
};

}  // namespace aspis::kernel
