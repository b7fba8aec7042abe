#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <optional>
#include <vector>

namespace aspis {

namespace mx = mlx::core;

/// Sum and mean over any axes (all of them if the list is empty), e.g. the gradient
/// of a bias.
///
/// @param x     floating point. bfloat16 is read as such and summed in float32; float16
///              goes through float32
/// @param axes  each in [-ndim, ndim), none twice
/// @return x's shape without these axes, or with 1 in their place; dtype of x
///
/// Throws `aspis::Error(kUsage)` for axes and dtypes that do not fit.
mx::array sum_over(const mx::array& x, const std::vector<int>& axes = {}, bool keepdims = false,
                   mx::StreamOrDevice s = {});
mx::array mean_over(const mx::array& x, const std::vector<int>& axes = {}, bool keepdims = false,
                    mx::StreamOrDevice s = {});

/// The same out of MLX operations: oracle, export form and fallback.
mx::array sum_over_composed(const mx::array& x, const std::vector<int>& axes = {}, bool keepdims = false,
                            mx::StreamOrDevice s = {});
mx::array mean_over_composed(const mx::array& x, const std::vector<int>& axes = {}, bool keepdims = false,
                             mx::StreamOrDevice s = {});

namespace ops {

/// The sum of x (or of x factor, of one shape) over the axes that `shape`, which
/// broadcasts to x's, lacks or has as 1: what a broadcast input's gradient is.
/// Float32, float64 or bfloat16.
mx::array sum_to(const mx::array& x, const std::optional<mx::array>& factor, const mx::Shape& shape, mx::Stream s);

}  // namespace ops
}  // namespace aspis
