#include "aspis/ops/common/primitive.h"
#include "aspis/ops/linear/linear.h"

namespace aspis {

mx::array linear_composed(const mx::array& x, const mx::array& weight, const std::optional<mx::array>& bias,
                          mx::StreamOrDevice s) {
  const mx::array y = mx::matmul(x, mx::transpose(weight, s), s);
  return bias ? mx::add(y, *bias, s) : y;
}

}  // namespace aspis
