#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <optional>

namespace aspis::ops {

/// A weight {out, in} as integers in groups along its rows, w = scale q + offset,
/// for inference. Made by `quantize`; the layout is this library's own.
struct QuantizedWeight {
  mlx::core::array packed;           ///< {out, words}, uint32
  mlx::core::array scales, offsets;  ///< {out, in / group}, float32
  int in = 0, bits = 8, group = 64;
};

struct QuantizeOptions {
  int bits = 8;    ///< 4 or 8
  int group = 64;  ///< values that share a scale: 16, 32, 64 or (4 bits) 128
};

/// Rounds each group of a weight {out, in} to 2^bits even steps from its lowest to
/// its highest value; the error is at most half a step. 8 bits in groups of 64 take
/// 9 bits a weight and 4 bits 5, scales included.
///
/// Throws `aspis::Error(kUsage)` for other bits and groups, a group that does not
/// divide `in`, and a weight that is not a floating-point matrix.
QuantizedWeight quantize(const mlx::core::array& weight, const QuantizeOptions& options = {},
                         mlx::core::StreamOrDevice s = {});

/// The weight {out, in} back in float32.
mlx::core::array dequantize(const QuantizedWeight& weight, mlx::core::StreamOrDevice s = {});

/// y {.., out} = x {.., in} w^T + bias, computed in float32, in the dtype of x. Up to 8
/// rows cost one pass over the integers. Bit-equal for any number of threads. No
/// gradients: `linear` with `dequantize` has them for x.
///
/// Throws `aspis::Error(kUsage)` when shapes disagree.
mlx::core::array linear_quantized(const mlx::core::array& x, const QuantizedWeight& weight,
                                  const std::optional<mlx::core::array>& bias = {},
                                  mlx::core::StreamOrDevice s = {});

}  // namespace aspis::ops
