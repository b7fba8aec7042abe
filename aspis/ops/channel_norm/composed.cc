#include <algorithm>
#include <numeric>
#include <vector>

#include "aspis/ops/channel_norm/channel_norm.h"
#include "aspis/ops/common/primitive.h"
#include "aspis/ops/gelu/gelu.h"
#include "aspis/ops/silu/silu.h"

namespace aspis {
namespace {

mx::array like(double value, const mx::array& a) { return mx::array(value, a.dtype()); }

// act(centred / sqrt(var + eps) weight + bias + residual)
mx::array finish(const mx::array& centred, const mx::array& var, const std::optional<mx::array>& weight,
                 const std::optional<mx::array>& bias, const ChannelNormOptions& o, mx::StreamOrDevice s) {
  auto y = mx::divide(centred, mx::sqrt(mx::add(var, like(static_cast<double>(o.eps), var), s), s), s);
  if (weight) y = mx::multiply(y, *weight, s);
  if (bias) y = mx::add(y, *bias, s);
  if (o.residual) y = mx::add(y, *o.residual, s);
  switch (o.activation) {
    case Activation::kRelu:
      return mx::maximum(y, like(0, y), s);
    case Activation::kSilu:
      return silu_composed(y, s);
    case Activation::kGelu:
      return gelu_composed(y, false, s);
    case Activation::kGeluTanh:
      return gelu_composed(y, true, s);
    default:
      return y;
  }
}

std::vector<int> all_but_last(const mx::array& x) {
  std::vector<int> axes(x.ndim() - 1);
  std::iota(axes.begin(), axes.end(), 0);
  return axes;
}

}  // namespace

BatchNormResult batch_norm_training_composed(const mx::array& x, const std::optional<mx::array>& weight,
                                             const std::optional<mx::array>& bias, const mx::array& running_mean,
                                             const mx::array& running_var, float momentum,
                                             const ChannelNormOptions& o, mx::StreamOrDevice s) {
  const auto axes = all_but_last(x);
  const auto mean = mx::mean(x, axes, false, s), centred = mx::subtract(x, mean, s);
  const auto var = mx::mean(mx::square(centred, s), axes, false, s);
  const double rows = static_cast<double>(x.size()) / static_cast<double>(x.shape(-1));
  const auto follow = [&](const mx::array& running, const mx::array& batch) {
    const double m = static_cast<double>(momentum);
    return mx::add(mx::multiply(like(1 - m, running), running, s),
                   mx::multiply(like(m, batch), mx::stop_gradient(batch, s), s), s);
  };
  const auto unbiased = mx::multiply(var, like(rows / std::max(rows - 1, 1.0), var), s);
  return {mx::astype(finish(centred, var, weight, bias, o, s), x.dtype(), s), follow(running_mean, mean),
          follow(running_var, unbiased)};
}

mx::array batch_norm_composed(const mx::array& x, const std::optional<mx::array>& weight,
                              const std::optional<mx::array>& bias, const mx::array& mean, const mx::array& var,
                              const ChannelNormOptions& o, mx::StreamOrDevice s) {
  const auto centred = mx::subtract(x, mx::stop_gradient(mean, s), s);
  return mx::astype(finish(centred, mx::stop_gradient(var, s), weight, bias, o, s), x.dtype(), s);
}

mx::array group_norm_composed(const mx::array& x, int groups, const std::optional<mx::array>& weight,
                              const std::optional<mx::array>& bias, const ChannelNormOptions& o,
                              mx::StreamOrDevice s) {
  const auto C = x.shape(-1);
  const auto grouped = mx::reshape(x, {x.shape(0), -1, groups, C / groups}, s);
  const auto centred = mx::subtract(grouped, mx::mean(grouped, std::vector<int>{1, 3}, true, s), s);
  const auto var =
      mx::broadcast_to(mx::mean(mx::square(centred, s), std::vector<int>{1, 3}, true, s), centred.shape(), s);
  return mx::astype(finish(mx::reshape(centred, x.shape(), s), mx::reshape(var, x.shape(), s), weight, bias, o, s),
                    x.dtype(), s);
}

}  // namespace aspis
