#pragma once

#include <cstdint>

namespace aspis::kernel {

/// A weight {out, in} as integers of 4 or 8 bits in groups along a row:
/// w = scale q + offset with q in [0, 2^bits), scale and offset per group.
///
/// A row is cut into blocks of 16 words of 32 bits, 512 / bits values: bits
/// [i bits, (i + 1) bits) of word l hold value 16 i + l of the block, so that a
/// shift brings 16 neighbouring values into 16 lanes. The last block is filled up with zeros.
struct QuantizedShape {
  int64_t out = 0, in = 0;
  int bits = 8;
  int64_t group = 64;  ///< values, a multiple of 16 that divides a block and `in`

  int64_t block() const { return 512 / bits; }
  int64_t words() const { return (in + block() - 1) / block() * 16; }  ///< of a row
  int64_t groups() const { return in / group; }                        ///< of a row
};

struct QuantizeParams {
  QuantizedShape shape;
  const float* weight = nullptr;                ///< {out, in}, dense
  uint32_t* packed = nullptr;                   ///< {out, words}
  float *scales = nullptr, *offsets = nullptr;  ///< {out, groups}
};

/// y {rows, out} = x {rows, in} w^T + bias; rows of x may have gaps.
struct QuantizedLinearParams {
  QuantizedShape shape;
  int64_t rows = 0;
  const float* x = nullptr;
  int64_t x_stride = 0;
  const uint32_t* packed = nullptr;
  const float *scales = nullptr, *offsets = nullptr;
  const float* bias = nullptr;  ///< {out} or null
  float* y = nullptr;
  float* workspace = nullptr;  ///< quantized_linear_workspace() values
};

}  // namespace aspis::kernel
