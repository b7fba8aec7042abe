#pragma once

#include <cstdint>
#include <vector>

namespace aspis::kernel {

/// Dense arrays whose squares are summed together; T is float or double.
template <typename T>
struct GradNormParams {
  struct Part {
    const T* data = nullptr;
    int64_t size = 0;
  };
  std::vector<Part> parts;
};

}  // namespace aspis::kernel
