#pragma once

#include <mlx/array.h>

#include <cstdint>

#include "aspis/ops/elementwise/elementwise.h"

namespace aspis {

namespace mx = mlx::core;

/// Largest value of every window of `window` x `window` pixels, channels last:
/// {B, H, W, C} -> {B, (H + 2 padding - window) / stride + 1, ..., C}. Padding counts as the
/// least value of the dtype.
mx::array max_pool(const mx::array& x, int64_t window, int64_t stride, int64_t padding);

/// Images {B, H, W, C} with zeros below and to the right up to multiples of `patch`.
mx::array padded_to_patches(const mx::array& images, int64_t patch);

}  // namespace aspis
