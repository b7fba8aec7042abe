#include "aspis/nn/linear.h"

#include <mlx/ops.h>

#include "aspis/ops/elementwise/elementwise.h"
#include "aspis/ops/linear/linear.h"

namespace aspis {

Linear::Linear(int64_t in, int64_t out, bool with_bias, const Init& init)
    : weight(
          init.kaiming_uniform("weight", {static_cast<mx::ShapeElem>(out), static_cast<mx::ShapeElem>(in)}, in)) {
  add_parameter("weight", weight);
  if (with_bias) {
    bias = init.kaiming_uniform("bias", {static_cast<mx::ShapeElem>(out)}, in);
    add_parameter("bias", *bias, Decay::kNo);
  }
}

mx::array Linear::operator()(const mx::array& x) const { return linear(x, weight, bias); }

mx::array scaled(const Linear& layer, const mx::array& x, const std::optional<mx::array>& scale) {
  if (!scale) return layer(x);
  const auto bias = layer.bias ? std::optional(*layer.bias * *scale) : std::nullopt;
  return linear(x, broadcast_multiply(layer.weight, mx::expand_dims(*scale, 1)), bias);
}

void start_small(Linear& layer, const Init& init) {
  layer.weight = init.truncated_normal("weight", layer.weight.shape(), 0.02);
  if (layer.bias) layer.bias = init.constant(layer.bias->shape(), 0);
}

mx::array Linear::operator()(const mx::array& x, Activation activation,
                             const std::optional<mx::array>& residual) const {
  return linear(x, weight, LinearOptions{bias, activation, residual});
}

}  // namespace aspis
