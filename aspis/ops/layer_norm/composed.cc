#include "aspis/ops/common/primitive.h"
#include "aspis/ops/layer_norm/layer_norm.h"

namespace aspis {

mx::array layer_norm_composed(const mx::array& x, const std::optional<mx::array>& weight,
                              const std::optional<mx::array>& bias, float eps, mx::StreamOrDevice s) {
  const auto centred = mx::subtract(x, mx::mean(x, -1, true, s), s);
  const auto variance = mx::mean(mx::square(centred, s), -1, true, s);
  const auto root = mx::sqrt(mx::add(variance, mx::array(static_cast<double>(eps), x.dtype()), s), s);
  auto y = mx::divide(centred, root, s);
  if (weight) y = mx::multiply(y, *weight, s);
  if (bias) y = mx::add(y, *bias, s);
  return mx::astype(y, x.dtype(), s);
}

mx::array layer_norm_channels_first_composed(const mx::array& x, const std::optional<mx::array>& weight,
                                             const std::optional<mx::array>& bias, float eps,
                                             mx::StreamOrDevice s) {
  const auto last = mx::moveaxis(x, 1, -1, s);
  return mx::moveaxis(layer_norm_composed(last, weight, bias, eps, s), -1, 1, s);
}

}  // namespace aspis
