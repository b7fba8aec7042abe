#include <mlx/ops.h>

#include "aspis/ops/common/primitive.h"
#include "aspis/ops/pscan/pscan.h"

namespace aspis {

mx::array pscan_composed(const mx::array& A, const mx::array& X, const std::optional<mx::array>& initial,
                         mx::StreamOrDevice s) {
  if (X.size() == 0) return X;
  const auto token = [&](const mx::array& a, int t) {
    mx::Shape start(a.ndim(), 0), stop = a.shape();
    start[1] = t, stop[1] = t + 1;
    return mx::squeeze(mx::slice(a, start, stop, s), 1, s);
  };
  Arrays rows;
  mx::array h = initial ? *initial : mx::zeros_like(token(X, 0), s);
  for (int t = 0; t < X.shape(1); t++) {
    h = mx::add(mx::multiply(token(A, t), h, s), token(X, t), s);
    rows.push_back(h);
  }
  return mx::stack(rows, 1, s);
}

}  // namespace aspis
