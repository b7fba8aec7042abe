#pragma once

#include <cstdint>

namespace aspis::kernel {

/// H_t = A_t H_{t-1} + X_t over {B, L, C}, all dense; H_{-1} is `initial` {B, C} or 0.
template <typename T>
struct PscanParams {
  int64_t batch = 0, length = 0, columns = 0;
  const T *A = nullptr, *X = nullptr;
  const T* initial = nullptr;  ///< may be null
  T* H = nullptr;
};

/// The gradients for dH: G_t = dH_t + A_{t+1} G_{t+1}; dX = G, dA_t = H_{t-1} G_t,
/// dinitial = A_0 G_0.
template <typename T>
struct PscanVjpParams {
  PscanParams<T> in;  ///< H holds what the forward pass wrote; X is not used
  const T* dH = nullptr;
  T *dA = nullptr, *dX = nullptr;
  T* dinitial = nullptr;  ///< null exactly if initial is
};

}  // namespace aspis::kernel
