#include <vector>

#include "aspis/ops/common/composed.h"
#include "aspis/ops/elementwise/elementwise.h"
#include "aspis/ops/elementwise/kernel/cpu.h"

namespace aspis {

mx::array relu_composed(const mx::array& x, mx::StreamOrDevice s) {
  return mx::maximum(x, mx::array(0, x.dtype()), s);
}

mx::array sigmoid_composed(const mx::array& x, mx::StreamOrDevice s) { return ops::sigmoid(x, s); }

mx::array tanh_composed(const mx::array& x, mx::StreamOrDevice s) {
  if (x.dtype() != mx::float64) return mx::tanh(x, s);
  // expm1 of the C library is exact where MLX's tanh is not: tanh(x) = e / (e + 2), e = expm1(2 x).
  const auto limited = mx::clip(x, mx::array(-20.0, mx::float64), mx::array(20.0, mx::float64), s);
  const auto e = mx::expm1(mx::add(limited, limited, s), s);
  return mx::divide(e, mx::add(e, mx::array(2.0, mx::float64), s), s);
}

mx::array softplus_composed(const mx::array& x, mx::StreamOrDevice s) { return ops::softplus(x, s); }

mx::array multiply_add_composed(const mx::array& a, const mx::array& b, const mx::array& c, mx::StreamOrDevice s) {
  return mx::add(mx::multiply(a, b, s), c, s);
}

mx::array dropout_composed(const mx::array& x, double rate, uint64_t key, uint64_t stream, mx::StreamOrDevice s) {
  std::vector<double> mask(x.size(), 1.0);
  kernel::dropout<double>({static_cast<int64_t>(mask.size()), rate, key, stream, mask.data(), mask.data()});
  return mx::multiply(x, mx::astype(mx::array(mask.begin(), x.shape(), mx::float64), x.dtype(), s), s);
}

}  // namespace aspis
