#include "aspis/ops/common/primitive.h"
#include "aspis/ops/matmul/matmul.h"

namespace aspis::ops {

mx::array matmul_composed(const mx::array& a, const mx::array& b, const MatmulOptions& o, mx::StreamOrDevice s) {
  return mx::matmul(o.transpose_a ? mx::swapaxes(a, -1, -2, s) : a, o.transpose_b ? mx::swapaxes(b, -1, -2, s) : b,
                    s);
}

}  // namespace aspis::ops
