#include "aspis/ops/common/primitive.h"
#include "aspis/ops/gelu/gelu.h"
#include "aspis/ops/linear/linear.h"
#include "aspis/ops/silu/silu.h"

namespace aspis {

mx::array activation_composed(const mx::array& x, Activation activation, mx::StreamOrDevice s) {
  switch (activation) {
    case Activation::kRelu:
      return mx::maximum(x, mx::array(0, x.dtype()), s);
    case Activation::kSilu:
      return silu_composed(x, s);
    case Activation::kGelu:
      return gelu_composed(x, false, s);
    case Activation::kGeluTanh:
      return gelu_composed(x, true, s);
    default:
      return x;
  }
}

mx::array linear_composed(const mx::array& x, const mx::array& weight, const LinearOptions& options,
                          mx::StreamOrDevice s) {
  auto y = mx::matmul(x, mx::transpose(weight, s), s);
  if (options.bias) y = mx::add(y, *options.bias, s);
  y = activation_composed(y, options.activation, s);
  return options.residual ? mx::add(y, *options.residual, s) : y;
}

mx::array linear_composed(const mx::array& x, const mx::array& weight, const std::optional<mx::array>& bias,
                          mx::StreamOrDevice s) {
  return linear_composed(x, weight, LinearOptions{.bias = bias}, s);
}

}  // namespace aspis
