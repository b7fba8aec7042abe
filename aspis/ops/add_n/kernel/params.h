#pragma once

#include <cstdint>
#include <vector>

namespace aspis::kernel {

/// y[i] = xs[0][i] + xs[1][i] + ..., added from left to right. `y` may be one
/// of the inputs.
template <typename T>
struct AddNParams {
  int64_t n = 0;
  std::vector<const T*> xs;  ///< at least one
  T* y = nullptr;
};

}  // namespace aspis::kernel
