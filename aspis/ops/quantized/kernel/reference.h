#pragma once

#include <vector>

#include "aspis/ops/quantized/kernel/params.h"

namespace aspis::kernel {

/// Value (row, i) of a quantised weight, in double.
inline double quantized_value(const QuantizedLinearParams& p, int64_t row, int64_t i) {
  const QuantizedShape& s = p.shape;
  const int64_t block = i / s.block(), at = i % s.block();
  const uint32_t word = p.packed[row * s.words() + block * 16 + at % 16];
  const uint32_t q = (word >> (at / 16 * s.bits)) & ((1u << s.bits) - 1u);
  const int64_t g = row * s.groups() + i / s.group;
  return double(p.scales[g]) * q + double(p.offsets[g]);
}

/// y {rows, out} in double.
inline std::vector<double> quantized_linear_reference(const QuantizedLinearParams& p) {
  std::vector<double> y;
  for (int64_t r = 0; r < p.rows; r++) {
    for (int64_t o = 0; o < p.shape.out; o++) {
      double sum = p.bias ? double(p.bias[o]) : 0;
      for (int64_t i = 0; i < p.shape.in; i++) sum += double(p.x[r * p.x_stride + i]) * quantized_value(p, o, i);
      y.push_back(sum);
    }
  }
  return y;
}

}  // namespace aspis::kernel
