#include "aspis/ops/common/composed.h"
#include "aspis/ops/silu/silu.h"

namespace aspis {

mx::array silu_composed(const mx::array& x, mx::StreamOrDevice s) {
  return mx::multiply(x, ops::sigmoid(x, s), s);
}

}  // namespace aspis
