#pragma once

#include <cstdint>

#include "aspis/ops/mamba3/kernel/params.h"

/// What one token of one head goes through.
namespace aspis::kernel {

/// mamba3_weights of the first token, on the calling thread.
template <typename T>
void token_weights(const Mamba3WeightsParams<T>& p);

/// mamba3_combine of the first head of the first token, on the calling thread; u {P} is scratch.
template <typename T>
void combine_head(const CombineParams<T>& p, T* u);

/// The state of a head over one token: h' = alpha h + sum_r (before^r (x) k_before^r +
/// now^r (x) k^r), y^r = h' q^r.
template <typename T>
struct StateStep {
  int64_t headdim = 0, state = 0, rank = 1;
  T alpha = 0;
  const T *before = nullptr, *now = nullptr;  ///< {R, P}
  const T* k_before = nullptr;                ///< {R, N} at distance `before_stride`
  int64_t before_stride = 0;
  const T *k = nullptr, *q = nullptr;  ///< {R, N}
  const T* from = nullptr;             ///< {P, N}
  T *to = nullptr, *y = nullptr;       ///< {P, N}, {R, P}
};

template <typename T>
struct StepLoops {
  void (*state)(const StateStep<T>& s);
  /// out = norm(x) weight + bias; no norm without a weight, no bias if that is null.
  void (*prepare)(int64_t n, const T* x, const T* weight, T eps, const T* bias, T* out);
};

template <typename T>
const StepLoops<T>& step_loops();

}  // namespace aspis::kernel
