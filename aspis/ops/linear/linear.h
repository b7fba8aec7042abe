#pragma once

#include <mlx/array.h>
#include <mlx/utils.h>

#include <optional>

#include "aspis/ops/linear/kernel/epilogue.h"

namespace aspis {

/// What goes into the same pass as the product.
struct LinearOptions {
  std::optional<mlx::core::array> bias = {};  ///< {out}
  Activation activation = Activation::kNone;
  std::optional<mlx::core::array> residual = {};  ///< of the shape of the result, or broadcast to it
};

/// y = x W^T + b over the last axis.
///
/// @param x       {..., in}, floating point; rows with gaps (a slice along the last axis) are read in place
/// @param weight  {out, in}, as PyTorch keeps it
/// @param bias    {out}, or absent
/// @return {..., out}, in the widest dtype of the arguments; float16 is computed
///         in float32, float64 in float64
///
/// With x in bfloat16 the result is bfloat16 whatever the weight is (but float64):
/// the weight may stay in float32 and is rounded on the way, sums are float32, and
/// the gradient of each argument has its dtype. With the units of AVX-512 for
/// bfloat16, products are added in pairs and denormal numbers count as zero; results
/// then differ in the last bits from those of other instruction sets.
///
/// Gradients for all three. Bit-equal for any number of threads; on x86 with
/// AVX-512 a row does not depend on the other rows either.
/// Throws `aspis::Error(kUsage)` when shapes disagree or an argument is not floating point.
mlx::core::array linear(const mlx::core::array& x, const mlx::core::array& weight,
                        const std::optional<mlx::core::array>& bias = {}, mlx::core::StreamOrDevice s = {});

/// y = f(x W^T + b) + residual, activation and addition done while the product
/// is in cache. With a gradient, x W^T + b is kept for the activations that need
/// it (all but ReLU without a residual). Gradients for x, weight, bias and
/// residual; dtypes, bits and errors as above.
mlx::core::array linear(const mlx::core::array& x, const mlx::core::array& weight, const LinearOptions& options,
                        mlx::core::StreamOrDevice s = {});

/// An activation by itself, out of MLX operations.
mlx::core::array activation_composed(const mlx::core::array& x, Activation activation,
                                     mlx::core::StreamOrDevice s = {});

/// The same out of MLX operations: oracle, export form and fallback.
mlx::core::array linear_composed(const mlx::core::array& x, const mlx::core::array& weight,
                                 const LinearOptions& options, mlx::core::StreamOrDevice s = {});
mlx::core::array linear_composed(const mlx::core::array& x, const mlx::core::array& weight,
                                 const std::optional<mlx::core::array>& bias = {},
                                 mlx::core::StreamOrDevice s = {});

}  // namespace aspis
