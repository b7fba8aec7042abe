#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <vector>

namespace aspis {

/// Euclidean norm of all elements of all arrays together, a float32 scalar.
/// Squares are added in double, so it is finite whenever it fits in float32 and
/// every element is finite; otherwise it is NaN or infinite.
///
/// @param xs  floating-point arrays of any shapes; float64 is used as it is if all are, else float32;
///            bfloat16 is read as it is
///
/// Bit-equal for any number of threads. Has no gradient.
/// Throws `aspis::Error(kUsage)` for an array that is not floating point.
mlx::core::array global_norm(const std::vector<mlx::core::array>& xs, mlx::core::StreamOrDevice s = {});

/// The same out of MLX operations: oracle and fallback. Squares are added in float32.
mlx::core::array global_norm_composed(const std::vector<mlx::core::array>& xs, mlx::core::StreamOrDevice s = {});

}  // namespace aspis
