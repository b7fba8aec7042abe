#include "aspis/nn/conv.h"

#include <mlx/ops.h>

#include "aspis/ops/channel_norm/channel_norm.h"
#include "aspis/ops/conv/conv.h"
#include "aspis/ops/elementwise/elementwise.h"
#include "aspis/ops/gelu/gelu.h"
#include "aspis/ops/silu/silu.h"

namespace aspis {
namespace {

mx::Shape weight_shape(const Conv2dConfig& c) {
  const auto k = static_cast<mx::ShapeElem>(c.kernel);
  return {static_cast<mx::ShapeElem>(c.out), k, k, static_cast<mx::ShapeElem>(c.in / c.groups)};
}

}  // namespace

Conv2d::Conv2d(const Conv2dConfig& c, const Init& init)
    : weight(init.kaiming_uniform("weight", weight_shape(c), c.kernel * c.kernel * c.in / c.groups)), config_(c) {
  add_parameter("weight", weight);
  if (c.bias) {
    bias =
        init.kaiming_uniform("bias", {static_cast<mx::ShapeElem>(c.out)}, c.kernel * c.kernel * c.in / c.groups);
    add_parameter("bias", *bias, Decay::kNo);
  }
}

mx::array Conv2d::apply(const mx::array& x, const mx::array& w, const std::optional<mx::array>& b,
                        Activation activation, const std::optional<mx::array>& residual) const {
  const int stride = static_cast<int>(config_.stride), padding = static_cast<int>(config_.padding);
  Conv2dOptions options;
  options.stride = {stride, stride};
  options.padding = {padding, padding};
  options.groups = static_cast<int>(config_.groups);
  options.bias = b;
  options.activation = activation;
  options.residual = residual;
  return conv2d(x, w, options);
}

BatchNorm::BatchNorm(int64_t channels, const Init& init, float epsilon, float momentum)
    : weight(init.constant({static_cast<mx::ShapeElem>(channels)}, 1)),
      bias(init.constant({static_cast<mx::ShapeElem>(channels)}, 0)),
      running_mean(init.constant({static_cast<mx::ShapeElem>(channels)}, 0)),
      running_var(init.constant({static_cast<mx::ShapeElem>(channels)}, 1)),
      epsilon_(epsilon),
      momentum_(momentum) {
  add_parameter("weight", weight, Decay::kNo);
  add_parameter("bias", bias, Decay::kNo);
  add_buffer("running_mean", running_mean);
  add_buffer("running_var", running_var);
}

mx::array BatchNorm::factor() const {
  return weight * mx::rsqrt(running_var + mx::array(epsilon_, running_var.dtype()));
}

mx::array BatchNorm::operator()(const mx::array& x, Activation activation,
                                const std::optional<mx::array>& residual) const {
  const ChannelNormOptions options{.eps = epsilon_, .activation = activation, .residual = residual};
  if (!training()) return batch_norm(x, weight, bias, running_mean, running_var, options);
  auto result = batch_norm_training(x, weight, bias, running_mean, running_var, momentum_, options);
  running_mean = mx::astype(result.running_mean, running_mean.dtype());
  running_var = mx::astype(result.running_var, running_var.dtype());
  return result.y;
}

mx::array BatchNorm::after(const Conv2d& conv, const mx::array& x, Activation activation,
                           const std::optional<mx::array>& residual) const {
  if (training()) return (*this)(conv(x), activation, residual);
  const auto f = factor();
  const auto shift = bias - running_mean * f;
  // With both, the residual comes first, which the convolution's own order does not have.
  const bool both = activation != Activation::kNone && residual;
  const auto y =
      conv.apply(x, broadcast_multiply(conv.weight, mx::reshape(f, {-1, 1, 1, 1})),
                 conv.bias ? *conv.bias * f + shift : shift, both ? Activation::kNone : activation, residual);
  if (!both) return y;
  switch (activation) {
    case Activation::kRelu:
      return relu(y);
    case Activation::kSilu:
      return silu(y);
    case Activation::kGelu:
      return gelu(y);
    case Activation::kGeluTanh:
      return gelu(y, true);
    default:
      return y;
  }
}

}  // namespace aspis
