#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

namespace aspis::ops {

/// How the two matrices of a product are stored.
struct MatmulOptions {
  bool transpose_a = false;  ///< a is {.., K, M}
  bool transpose_b = false;  ///< b is {.., N, K}
};

/// {.., M, N} = a {.., M, K} b {.., K, N}, or with one or both transposed. Leading
/// axes broadcast; a matrix that all of a batch share is packed once.
///
/// @param a,b  at least two axes, floating point; rows with gaps are read in place
/// @return the widest dtype; float16 and bfloat16 are computed in float32
///
/// Gradients for both, products themselves. Bit-equal for any number of threads and any batch.
/// Throws `aspis::Error(kUsage)` when shapes do not fit or an argument is not floating point.
mlx::core::array matmul(const mlx::core::array& a, const mlx::core::array& b, const MatmulOptions& options = {},
                        mlx::core::StreamOrDevice s = {});

/// The same out of MLX operations: oracle, export form and fallback.
mlx::core::array matmul_composed(const mlx::core::array& a, const mlx::core::array& b,
                                 const MatmulOptions& options = {}, mlx::core::StreamOrDevice s = {});

}  // namespace aspis::ops
