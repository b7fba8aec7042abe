#include <cmath>

#include "aspis/ops/adamw/adamw.h"
#include "aspis/ops/common/primitive.h"

namespace aspis {

AdamWResult adamw_composed(const std::vector<mx::array>& params, const std::vector<mx::array>& gradients,
                           const std::vector<mx::array>& m, const std::vector<mx::array>& v,
                           const std::vector<bool>& decay, const AdamWOptions& options, const StepControl& control,
                           mx::StreamOrDevice s) {
  mx::array go = mx::array(true);
  for (const auto& scalar : {control.norm, control.loss}) {
    if (scalar) go = mx::logical_and(go, mx::isfinite(mx::reshape(*scalar, {}, s), s), s);
  }
  AdamWResult r{{}, {}, {}, mx::astype(go, mx::float32, s)};
  const double correction1 = 1 - std::pow(options.beta1, static_cast<double>(control.step));
  const double correction2 = 1 - std::pow(options.beta2, static_cast<double>(control.step));
  for (size_t i = 0; i < params.size(); i++) {
    const mx::Dtype dtype = params[i].dtype();
    const auto number = [&](double x) { return mx::array(x, dtype); };
    mx::array g = mx::multiply(mx::astype(gradients[i], dtype, s), number(control.gradient_scale), s);
    if (control.norm && control.max_norm > 0) {
      const mx::array norm = mx::multiply(mx::astype(mx::reshape(*control.norm, {}, s), dtype, s),
                                          number(std::abs(control.gradient_scale)), s);
      const mx::array factor = mx::divide(number(control.max_norm), mx::add(norm, number(1e-6), s), s);
      g = mx::multiply(g, mx::minimum(number(1), factor, s), s);
    }
    const mx::array m1 =
        mx::add(mx::multiply(m[i], number(options.beta1), s), mx::multiply(g, number(1 - options.beta1), s), s);
    const mx::array v1 = mx::add(mx::multiply(v[i], number(options.beta2), s),
                                 mx::multiply(mx::square(g, s), number(1 - options.beta2), s), s);
    const mx::array denominator =
        mx::add(mx::multiply(mx::sqrt(v1, s), number(1 / std::sqrt(correction2)), s), number(options.eps), s);
    const mx::array kept =
        mx::multiply(params[i], number(decay[i] ? 1 - control.lr * options.weight_decay : 1), s);
    const mx::array change = mx::multiply(mx::divide(m1, denominator, s), number(control.lr / correction1), s);
    r.params.push_back(mx::where(go, mx::subtract(kept, change, s), params[i], s));
    r.m.push_back(mx::where(go, m1, m[i], s));
    r.v.push_back(mx::where(go, v1, v[i], s));
  }
  return r;
}

}  // namespace aspis
