#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <vector>

namespace aspis {

/// The Euclidean norm of all elements of all arrays together: the square root
/// of the sum of squares, as `torch.nn.utils.clip_grad_norm_` measures it.
///
/// @param xs  floating-point arrays of any shapes; may be empty (norm 0)
/// @return a float32 scalar. Squares are summed in double, in an order that
///         depends on the shapes only. A NaN or an infinity anywhere gives a
///         result that is not finite.
/// Throws `aspis::Error(kUsage)` for arrays that are not real floating point.
/// There is no gradient.
mlx::core::array global_norm(const std::vector<mlx::core::array>& xs, mlx::core::StreamOrDevice s = {});

}  // namespace aspis
