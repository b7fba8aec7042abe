#include "aspis/ops/common/primitive.h"
#include "aspis/ops/grad_norm/grad_norm.h"

namespace aspis {

mx::array global_norm_composed(const std::vector<mx::array>& xs, mx::StreamOrDevice s) {
  mx::array sum = mx::array(0.0f);
  for (const mx::array& x : xs) sum = mx::add(sum, mx::sum(mx::square(x, s), s), s);
  return mx::astype(mx::sqrt(sum, s), mx::float32, s);
}

}  // namespace aspis
