#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <vector>

namespace aspis {

namespace mx = mlx::core;

/// Windows over the 1 to 3 axes between the first and the last; one number an
/// axis, or one for all of them. The meaning is that of torch.nn.MaxPool and AvgPool.
struct PoolOptions {
  std::vector<int> window;
  std::vector<int> stride = {};    ///< the window if empty
  std::vector<int> padding = {};   ///< 0 if empty; at most half of the window
  std::vector<int> dilation = {};  ///< 1 if empty; max_pool only
  bool ceil_mode = false;          ///< a last window may reach over the end
  bool count_include_pad = true;   ///< avg_pool: padding counts as zeros
};

/// Largest value of every window, channels last.
///
/// @param x {B, .., C}, 3 to 5 axes, floating point. bfloat16 is read and written as
///          such; float16 goes through float32
/// @return {B, .., C}, floor((in + 2 padding - dilation (window - 1) - 1) / stride) + 1 an axis; dtype of x.
///         A NaN is the largest value there is
///
/// The gradient goes to the first of equal values. All functions here throw
/// `aspis::Error(kUsage)` for shapes, dtypes and options that do not fit.
mx::array max_pool(const mx::array& x, const PoolOptions& options, mx::StreamOrDevice s = {});
/// Mean of every window.
mx::array avg_pool(const mx::array& x, const PoolOptions& options, mx::StreamOrDevice s = {});

/// To a given size: window i of an axis is [floor(i in / out), ceil((i + 1) in / out)).
mx::array adaptive_max_pool(const mx::array& x, const std::vector<int>& size, mx::StreamOrDevice s = {});
mx::array adaptive_avg_pool(const mx::array& x, const std::vector<int>& size, mx::StreamOrDevice s = {});
/// Mean over all axes between the first and the last, of which there may be any number: {B, .., C} to {B, C}.
mx::array global_avg_pool(const mx::array& x, mx::StreamOrDevice s = {});

/// The same out of MLX operations: oracle, export form and fallback.
mx::array max_pool_composed(const mx::array& x, const PoolOptions& options, mx::StreamOrDevice s = {});
mx::array avg_pool_composed(const mx::array& x, const PoolOptions& options, mx::StreamOrDevice s = {});
mx::array adaptive_max_pool_composed(const mx::array& x, const std::vector<int>& size, mx::StreamOrDevice s = {});
mx::array adaptive_avg_pool_composed(const mx::array& x, const std::vector<int>& size, mx::StreamOrDevice s = {});

}  // namespace aspis
