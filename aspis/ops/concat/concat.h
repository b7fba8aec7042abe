#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <vector>

namespace aspis {

namespace mx = mlx::core;

/// Arrays one after the other along an axis, on all threads. Any dtype, the same for
/// all; the gradients are views of the cotangent.
///
/// @param arrays  at least one, shapes equal but along `axis`
/// Throws `aspis::Error(kUsage)` for shapes and dtypes that differ.
mx::array concat(const std::vector<mx::array>& arrays, int axis, mx::StreamOrDevice s = {});

}  // namespace aspis
