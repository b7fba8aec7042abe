#include "aspis/ops/common/composed.h"
#include "aspis/ops/softmax/softmax.h"

namespace aspis {

mx::array softmax_composed(const mx::array& x, mx::StreamOrDevice s) {
  // The maximum cancels in the quotient: no gradient goes through it.
  const auto top = mx::stop_gradient(mx::max(x, -1, true, s), s);
  const auto e = ops::exp(mx::subtract(x, top, s), s);
  return mx::divide(e, mx::sum(e, -1, true, s), s);
}

mx::array log_softmax_composed(const mx::array& x, mx::StreamOrDevice s) {
  const auto shifted = mx::subtract(x, mx::stop_gradient(mx::max(x, -1, true, s), s), s);
  return mx::subtract(shifted, mx::log(mx::sum(ops::exp(shifted, s), -1, true, s), s), s);
}

}  // namespace aspis
