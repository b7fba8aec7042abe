#pragma once

#include <cstdint>
#include <vector>

#include "aspis/simd/bf16.h"

namespace aspis::kernel {

/// y[i] = xs[0][i] + xs[1][i] + ..., added from left to right. `y` may be one
/// of the inputs. T is float, double or Bf16 (added in float, rounded once).
template <typename T>
struct AddNParams {
  int64_t n = 0;
  std::vector<const T*> xs;  ///< at least one
  T* y = nullptr;
};

}  // namespace aspis::kernel
