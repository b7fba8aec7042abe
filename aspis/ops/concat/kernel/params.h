#pragma once

#include <cstdint>
#include <vector>

namespace aspis::kernel {

/// y {rows, sum of bytes}: row r is row r of every part after the other, all dense.
struct ConcatParams {
  struct Part {
    const uint8_t* data = nullptr;
    int64_t bytes = 0;  ///< of a row
  };
  int64_t rows = 0;
  std::vector<Part> parts;
  uint8_t* y = nullptr;
};

}  // namespace aspis::kernel
