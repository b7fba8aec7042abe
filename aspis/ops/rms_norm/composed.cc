#include "aspis/ops/common/primitive.h"
#include "aspis/ops/rms_norm/rms_norm.h"

namespace aspis {

mx::array rms_norm_composed(const mx::array& x, const std::optional<mx::array>& weight, float eps,
                            mx::StreamOrDevice s) {
  const auto mean = mx::mean(mx::square(x, s), -1, true, s);
  const auto root = mx::sqrt(mx::add(mean, mx::array(static_cast<double>(eps), x.dtype()), s), s);
  const auto y = mx::divide(x, root, s);
  return mx::astype(weight ? mx::multiply(y, *weight, s) : y, x.dtype(), s);
}

}  // namespace aspis
