#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <array>
#include <optional>

#include "aspis/simd/activation.h"

namespace aspis {

namespace mx = mlx::core;

/// Options of a 2-D convolution, in the order height, width.
struct Conv2dOptions {
  std::array<int, 2> stride{1, 1};
  std::array<int, 2> padding{0, 0};  ///< zeros on either side
  std::array<int, 2> dilation{1, 1};
  int groups = 1;                             ///< equal to the channels: depthwise
  std::optional<mx::array> bias = {};         ///< {O}
  Activation activation = Activation::kNone;  ///< y = f(convolution + bias) + residual, in one pass
  std::optional<mx::array> residual = {};     ///< of the shape of the result
};

/// Options of a 3-D convolution, in the order depth, height, width.
struct Conv3dOptions {
  std::array<int, 3> stride{1, 1, 1};
  std::array<int, 3> padding{0, 0, 0};
  std::array<int, 3> dilation{1, 1, 1};
  int groups = 1;
  std::optional<mx::array> bias = {};
  Activation activation = Activation::kNone;  ///< y = f(convolution + bias) + residual, in one pass
  std::optional<mx::array> residual = {};     ///< of the shape of the result
};

/// Convolution as in PyTorch (a correlation), channels last as in MLX:
///
///     y_{b, i, o} = bias_o + sum_{k, c} weight_{o, k, c} x_{b, i stride - padding + k dilation, c}
///
/// @param x       {B, H, W, C}, floating point
/// @param weight  {O, kh, kw, C / groups}; output channel o belongs to group o / (O / groups)
/// @return {B, H', W', O} of the widest dtype, H' = (H + 2 padding - dilation (kh - 1) - 1) / stride + 1
///
/// With x in bfloat16 the result is bfloat16, whatever the weight is (but float64);
/// it and float16 are computed in float32, float64 in float64. Gradients
/// for x, weight, bias and residual; bit-equal for any number of threads. Throws
/// `aspis::Error(kUsage)` for shapes, dtypes and options that do not fit.
mx::array conv2d(const mx::array& x, const mx::array& weight, const Conv2dOptions& options = {},
                 mx::StreamOrDevice s = {});

/// The same over {B, D, H, W, C} with weight {O, kd, kh, kw, C / groups}.
mx::array conv3d(const mx::array& x, const mx::array& weight, const Conv3dOptions& options = {},
                 mx::StreamOrDevice s = {});

/// Options of a transposed convolution over N axes. `output_padding` adds to the
/// far end of an axis of the result, less than stride or dilation.
template <size_t N>
struct TransposedConvOptions {
  std::array<int, N> stride = filled(1), padding = filled(0), dilation = filled(1), output_padding = filled(0);
  int groups = 1;
  std::optional<mx::array> bias = {};  ///< {O}

  static constexpr std::array<int, N> filled(int value) {
    std::array<int, N> a{};
    for (int& v : a) v = value;
    return a;
  }
};

/// Transposed convolution as PyTorch's: the gradient of a convolution for its input,
///
///     y_{b, i stride - padding + k dilation, o} = bias_o + sum_{i, k, c} weight_{c, k, o} x_{b, i, c}
///
/// @param x       {B, L, C}, {B, H, W, C} or {B, D, H, W, C}, floating point
/// @param weight  {C, k.., O / groups}: PyTorch's order with the channels last
/// @return {B, .., O} with (n - 1) stride - 2 padding + dilation (k - 1) + output_padding + 1 places
///         on an axis where x has n
///
/// float16 and bfloat16 are computed in float32. Gradients for x, weight and bias;
/// bit-equal for any number of threads. Throws `aspis::Error(kUsage)` for what does not fit.
mx::array transposed_conv1d(const mx::array& x, const mx::array& weight,
                            const TransposedConvOptions<1>& options = {}, mx::StreamOrDevice s = {});
mx::array transposed_conv2d(const mx::array& x, const mx::array& weight,
                            const TransposedConvOptions<2>& options = {}, mx::StreamOrDevice s = {});
mx::array transposed_conv3d(const mx::array& x, const mx::array& weight,
                            const TransposedConvOptions<3>& options = {}, mx::StreamOrDevice s = {});

/// Out of MLX operations: oracle, export form and fallback.
mx::array transposed_conv2d_composed(const mx::array& x, const mx::array& weight,
                                     const TransposedConvOptions<2>& options = {}, mx::StreamOrDevice s = {});
mx::array transposed_conv3d_composed(const mx::array& x, const mx::array& weight,
                                     const TransposedConvOptions<3>& options = {}, mx::StreamOrDevice s = {});

/// Out of MLX operations: oracle, export form and fallback.
mx::array conv2d_composed(const mx::array& x, const mx::array& weight, const Conv2dOptions& options = {},
                          mx::StreamOrDevice s = {});
mx::array conv3d_composed(const mx::array& x, const mx::array& weight, const Conv3dOptions& options = {},
                          mx::StreamOrDevice s = {});

}  // namespace aspis
