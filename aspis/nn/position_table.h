#pragma once

#include <mlx/array.h>

#include <cstdint>
#include <vector>

namespace aspis {

namespace mx = mlx::core;

/// A table of positions {1, N, E} over a grid (row-major, N its product) for a
/// grid of other sizes and as many axes: cubic interpolation (Keys 1981,
/// a = -1/2) along each axis, widened where the grid shrinks. On two axes that is
/// what timm does to the tables of vision transformers (bicubic, antialiased,
/// no aligned corners). The same table if the sizes are the same. Gradients flow
/// to the table. Throws Error(kUsage) for sizes that do not fit.
mx::array resize_positions(const mx::array& table, const std::vector<int64_t>& from,
                           const std::vector<int64_t>& to);

/// The same for square grids {1, n n, E}, or with one more entry of its own before entry
/// `token` of the rest (0: in front; -1: no such entry; -2: in the middle). Throws
/// Error(kUsage) if the entries are no square.
mx::array resize_square_positions(const mx::array& table, int64_t height, int64_t width, int token = -1);

}  // namespace aspis
