#pragma once

#include <cstdint>
#include <vector>

#include "aspis/simd/bf16.h"

namespace aspis::kernel {

template <typename T>
struct ArrayRef {
  int64_t n = 0;
  const T* data = nullptr;
  const Bf16* half = nullptr;  ///< read instead of `data` if given
};

/// norm = sqrt(sum of the squares of all elements of all arrays).
template <typename T>
struct GlobalNormParams {
  std::vector<ArrayRef<T>> arrays;
  float* norm = nullptr;  ///< one value
};

}  // namespace aspis::kernel
