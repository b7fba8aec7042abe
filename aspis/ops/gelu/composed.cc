#include <cmath>

#include "aspis/ops/common/composed.h"
#include "aspis/ops/gelu/gelu.h"

namespace aspis {
namespace {

// MLX's erf has float32 accuracy in float64 too. Here:
//   erf(x) = 2/sqrt(pi) x e^(-x^2) sum_n (2 x^2)^n / (1 3 5 ... (2 n + 1)),
// whose terms are all positive; 110 of them reach a double's last bit at 6,
// where erf is 1.
mx::array accurate_erf(const mx::array& x, mx::StreamOrDevice s) {
  if (x.dtype() != mx::float64) return mx::erf(x, s);
  const auto number = [](double v) { return mx::array(v, mx::float64); };
  const auto z = mx::maximum(mx::minimum(x, number(6), s), number(-6), s);
  const auto square = mx::multiply(z, z, s);
  auto sum = number(1);
  for (int n = 110; n > 0; n--) {
    sum = mx::add(number(1), mx::multiply(mx::multiply(square, number(2.0 / (2 * n + 1)), s), sum, s), s);
  }
  // e^(-x^2) as a 16th power, since ops::exp is exact in the absolute sense only.
  auto e = ops::exp(mx::multiply(square, number(-1.0 / 16), s), s);
  for (int i = 0; i < 4; i++) e = mx::multiply(e, e, s);
  return mx::multiply(mx::multiply(number(2 / std::sqrt(3.14159265358979323846)), z, s), mx::multiply(e, sum, s),
                      s);
}

}  // namespace

mx::array gelu_composed(const mx::array& x, bool tanh_approximation, mx::StreamOrDevice s) {
  const auto number = [&](double v) { return mx::array(v, x.dtype()); };
  if (tanh_approximation) {
    // 0.5 (1 + tanh u) = sigmoid(2 u), which does not cancel on the left.
    const auto cubic = mx::multiply(number(0.044715), mx::multiply(x, mx::multiply(x, x, s), s), s);
    const auto v = mx::multiply(number(2 * std::sqrt(2 / 3.14159265358979323846)), mx::add(x, cubic, s), s);
    return mx::multiply(x, ops::sigmoid(v, s), s);
  }
  const auto cdf = mx::add(number(1), accurate_erf(mx::multiply(x, number(std::sqrt(0.5)), s), s), s);
  return mx::multiply(mx::multiply(number(0.5), x, s), cdf, s);
}

}  // namespace aspis
