#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <vector>

namespace aspis {

/// Sum of one or more arrays of one shape in a single pass, added from left to
/// right. The gradient of every input is the cotangent itself.
///
/// @param xs  at least one array, all of one shape, floating point; the sum is
///            computed in float64 if any is, else float32; bfloat16 throughout is read
///            and written as such
/// @return that shape, dtype of the first array
/// Throws `aspis::Error(kUsage)` for an empty list, shapes that differ and integer input.
mlx::core::array add_n(const std::vector<mlx::core::array>& xs, mlx::core::StreamOrDevice s = {});

/// The same out of MLX operations: oracle, export form and fallback.
mlx::core::array add_n_composed(const std::vector<mlx::core::array>& xs, mlx::core::StreamOrDevice s = {});

}  // namespace aspis
