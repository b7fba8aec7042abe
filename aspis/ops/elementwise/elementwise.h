#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <cstdint>

namespace aspis {

namespace mx = mlx::core;

/// Functions of one value: max(x, 0), 1 / (1 + exp(-x)), tanh(x), and log(1 + exp(x))
/// with the threshold 20 of PyTorch. MLX has functions of three of these names: call
/// them as aspis::sigmoid.
///
/// @param x  any shape, floating point. bfloat16 is read and written as such and
///           computed in float32; float16 goes through float32
/// @return the shape and dtype of x
/// Throw `aspis::Error(kUsage)` for integer input.
mx::array relu(const mx::array& x, mx::StreamOrDevice s = {});
mx::array sigmoid(const mx::array& x, mx::StreamOrDevice s = {});
mx::array tanh(const mx::array& x, mx::StreamOrDevice s = {});
mx::array softplus(const mx::array& x, mx::StreamOrDevice s = {});

/// a + b, a b and a b + c (layer scale or drop path with the residual), with
/// broadcasting as in numpy, in one pass and without a copy of what is broadcast.
///
/// @return broadcast shape, widest dtype of the arguments; bfloat16 throughout is
///         read and written as such
/// Gradients of broadcast arguments are summed while the products are made. Throw
/// `aspis::Error(kUsage)` for shapes and dtypes that do not fit.
mx::array broadcast_add(const mx::array& a, const mx::array& b, mx::StreamOrDevice s = {});
mx::array broadcast_multiply(const mx::array& a, const mx::array& b, mx::StreamOrDevice s = {});
mx::array multiply_add(const mx::array& a, const mx::array& b, const mx::array& c, mx::StreamOrDevice s = {});

/// Inverted dropout (Srivastava et al. 2014): 0 with probability `rate`, else
/// x / (1 - rate). Which values are dropped is a function of (key, stream) and
/// their index alone, whatever the dtype, the instruction set or the threads are;
/// nothing is kept for the gradient.
/// Throws `aspis::Error(kUsage)` unless 0 <= rate < 1.
mx::array dropout(const mx::array& x, double rate, uint64_t key, uint64_t stream, mx::StreamOrDevice s = {});

/// x as float32 or bfloat16 (to nearest even) on all threads; other dtypes go
/// through MLX's conversion.
mx::array cast(const mx::array& x, mx::Dtype dtype, mx::StreamOrDevice s = {});

/// The same out of MLX operations: oracle, export form and fallback.
mx::array relu_composed(const mx::array& x, mx::StreamOrDevice s = {});
mx::array sigmoid_composed(const mx::array& x, mx::StreamOrDevice s = {});
mx::array tanh_composed(const mx::array& x, mx::StreamOrDevice s = {});
mx::array softplus_composed(const mx::array& x, mx::StreamOrDevice s = {});
mx::array multiply_add_composed(const mx::array& a, const mx::array& b, const mx::array& c,
                                mx::StreamOrDevice s = {});
/// With a mask that is made on the host.
mx::array dropout_composed(const mx::array& x, double rate, uint64_t key, uint64_t stream,
                           mx::StreamOrDevice s = {});

}  // namespace aspis
