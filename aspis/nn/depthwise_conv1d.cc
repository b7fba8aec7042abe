#include "aspis/nn/depthwise_conv1d.h"

#include "aspis/ops/causal_conv1d/causal_conv1d.h"

namespace aspis {
namespace {

mx::array initial_weight(int64_t channels, int64_t width, const Init& init) {
  const mx::Shape shape{static_cast<mx::ShapeElem>(channels), static_cast<mx::ShapeElem>(width)};
  // S0 takes the layer default of MLX, which counts all input channels and not those of a group.
  return init.kaiming_uniform("weight", shape, init.recipe() == InitRecipe::kS0 ? channels * width : width);
}

mx::array initial_bias(int64_t channels, int64_t width, const Init& init) {
  const mx::Shape shape{static_cast<mx::ShapeElem>(channels)};
  if (init.recipe() == InitRecipe::kS0) return init.constant(shape, 0);
  return init.kaiming_uniform("bias", shape, width);
}

}  // namespace

DepthwiseConv1d::DepthwiseConv1d(int64_t channels, int64_t width, const Init& init)
    : weight(initial_weight(channels, width, init)), bias(initial_bias(channels, width, init)) {
  add_parameter("weight", weight);
  add_parameter("bias", bias, Decay::kNo);
}

mx::array DepthwiseConv1d::operator()(const mx::array& x, const ScanDirection& direction) const {
  Conv1dOptions options;
  options.bias = bias;
  options.silu = true;
  options.reverse = direction.reverse;
  options.order = direction.order;
  return causal_conv1d(x, weight, options);
}

std::pair<mx::array, mx::array> DepthwiseConv1d::prefill(const mx::array& x, const mx::array& state) const {
  Conv1dOptions options;
  options.bias = bias;
  options.silu = true;
  options.initial_state = state;
  return causal_conv1d_with_state(x, weight, options);
}

std::pair<mx::array, mx::array> DepthwiseConv1d::step(const mx::array& x, const mx::array& state) const {
  Conv1dOptions options;
  options.bias = bias;
  options.silu = true;
  return causal_conv1d_step(state, x, weight, options);
}

}  // namespace aspis
