#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <vector>

#include "aspis/ops/resample/kernel/axis_table.h"

namespace aspis {

namespace mx = mlx::core;

using Interpolation = kernel::Interpolation;

struct InterpolateOptions {
  Interpolation mode = Interpolation::kNearest;
  bool align_corners = false;      ///< linear and cubic: the first and last points fall on each other
  bool antialias = false;          ///< linear and cubic: the kernel is as wide as the step when shrinking
  std::vector<double> scale = {};  ///< factor of each axis, where the step is to follow it and not the sizes
};

/// Changes the size of 1 to 3 axes, as torch.nn.functional.interpolate does
/// (nearest, nearest-exact, linear to trilinear, bicubic with a = -0.75, antialias
/// with a = -0.5), channels last.
///
/// @param x     {B, .., C}, 3 to 5 axes, floating point. bfloat16 is read and written as
///              such and summed in float32; float16 goes through float32
/// @param size  of the axes between the first and the last; positive
/// @return {B, size.., C}, dtype of x
///
/// The gradient is the transposed map. Throws `aspis::Error(kUsage)` for shapes,
/// dtypes and options that do not fit.
mx::array interpolate(const mx::array& x, const std::vector<int>& size, const InterpolateOptions& options = {},
                      mx::StreamOrDevice s = {});

/// The same out of MLX operations: oracle, export form and fallback.
mx::array interpolate_composed(const mx::array& x, const std::vector<int>& size,
                               const InterpolateOptions& options = {}, mx::StreamOrDevice s = {});

}  // namespace aspis
