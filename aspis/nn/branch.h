#pragma once

#include <mlx/array.h>

#include <cstdint>
#include <vector>

/// Branching in a graph, with gradients that meet in one pass. Where an array
/// has several readers, MLX adds their gradients pair by pair with its scalar
/// addition, and the gradient of a slice is a zero-filled copy of the whole;
/// these two functions do the same with one pass over the data.
namespace aspis {

namespace mx = mlx::core;

/// `count` arrays that share the data of `x`; the gradient is their sum.
std::vector<mx::array> fan_out(const mx::array& x, int count);

/// Views of `x` cut along `axis` into parts of the given sizes, which must add
/// up to its length; the gradient is their concatenation.
std::vector<mx::array> split_sizes(const mx::array& x, const std::vector<int64_t>& sizes, int axis);

}  // namespace aspis
