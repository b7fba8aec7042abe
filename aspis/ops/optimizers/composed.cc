#include <cmath>

#include "aspis/ops/common/primitive.h"
#include "aspis/ops/optimizers/kernel/params.h"
#include "aspis/ops/optimizers/optimizers.h"

namespace aspis {
namespace {

// One array of one dtype with its numbers.
class Composed {
 public:
  Composed(mx::Dtype dtype, mx::StreamOrDevice s) : dtype_(dtype), s_(s) {}

  mx::array number(double x) const { return mx::array(x, dtype_); }
  mx::array times(const mx::array& a, double x) const { return mx::multiply(a, number(x), s_); }
  mx::array plus(const mx::array& a, const mx::array& b) const { return mx::add(a, b, s_); }
  // beta a + (1 - beta) b
  mx::array blend(double beta, const mx::array& a, const mx::array& b) const {
    return plus(times(a, beta), times(b, 1 - beta));
  }
  mx::array norm(const mx::array& a) const { return mx::sqrt(mx::sum(mx::square(a, s_), s_), s_); }
  // m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)
  mx::array adam(const mx::array& m, const mx::array& v, const OptimizerRule& r, double t) const {
    const auto root = mx::sqrt(times(v, 1 / (1 - std::pow(r.beta2, t))), s_);
    return mx::divide(times(m, 1 / (1 - std::pow(r.beta1, t))), plus(root, number(r.eps)), s_);
  }
  mx::array orthogonal(const mx::array& u, const OptimizerRule& r) const {
    const kernel::MuonConstants c;
    const int rows = u.shape(0), columns = static_cast<int>(u.size()) / rows;
    auto x = mx::reshape(u, {rows, columns}, s_);
    if (rows > columns) x = mx::transpose(x, s_);
    x = mx::divide(x, mx::maximum(norm(x), number(r.eps), s_), s_);
    for (int i = 0; i < r.iterations; i++) {
      const auto gram = mx::matmul(x, mx::transpose(x, s_), s_);
      const auto poly = plus(times(gram, c.b), times(mx::matmul(gram, gram, s_), c.c));
      x = plus(times(x, c.a), mx::matmul(poly, x, s_));
    }
    if (rows > columns) x = mx::transpose(x, s_);
    const double larger = std::max(rows, columns);
    const double factor = r.original_factor
                              ? std::sqrt(std::max(1.0, static_cast<double>(rows) / static_cast<double>(columns)))
                              : 0.2 * std::sqrt(larger);
    return times(mx::reshape(x, u.shape(), s_), factor);
  }

 private:
  mx::Dtype dtype_;
  mx::StreamOrDevice s_;
};

}  // namespace

OptimizerResult optimizer_step_composed(const OptimizerRule& rule, const Arrays& params, const Arrays& gradients,
                                        const std::vector<Arrays>& states, const std::vector<bool>& decay,
                                        const StepControl& control, mx::StreamOrDevice s) {
  mx::array go = mx::array(true);
  for (const auto& scalar : {control.norm, control.loss}) {
    if (scalar) go = mx::logical_and(go, mx::isfinite(mx::reshape(*scalar, {}, s), s), s);
  }
  OptimizerResult result{{}, std::vector<Arrays>(states.size()), {}, {}, mx::astype(go, mx::float32, s)};
  const double lr = control.lr, t = static_cast<double>(control.step);
  for (size_t i = 0; i < params.size(); i++) {
    const mx::array& p = params[i];
    const Composed c(p.dtype(), s);
    mx::array g = c.times(mx::astype(gradients[i], p.dtype(), s), control.gradient_scale);
    if (control.norm && control.max_norm > 0) {
      const auto norm =
          c.times(mx::astype(mx::reshape(*control.norm, {}, s), p.dtype(), s), std::abs(control.gradient_scale));
      const auto factor = mx::divide(c.number(control.max_norm), c.plus(norm, c.number(1e-6)), s);
      g = mx::multiply(g, mx::minimum(c.number(1), factor, s), s);
    }
    const double wd = decay[i] ? rule.weight_decay : 0;
    Arrays next;
    for (const Arrays& list : states) next.push_back(list[i]);
    mx::array q = p;
    const auto kept = c.times(p, 1 - lr * wd);
    switch (rule.kind) {
      case OptimizerKind::kSgd: {
        const auto slope = c.plus(g, c.times(p, wd));
        next[0] = c.plus(c.times(next[0], rule.beta1), slope);
        q = mx::subtract(p, c.times(rule.nesterov ? c.plus(slope, c.times(next[0], rule.beta1)) : next[0], lr), s);
        break;
      }
      case OptimizerKind::kLion:
        q = mx::subtract(kept, c.times(mx::sign(c.blend(rule.beta1, next[0], g), s), lr), s);
        next[0] = c.blend(rule.beta2, next[0], g);
        break;
      case OptimizerKind::kAdamW:
      case OptimizerKind::kLamb: {
        next[0] = c.blend(rule.beta1, next[0], g);
        next[1] = c.blend(rule.beta2, next[1], mx::square(g, s));
        const auto adam = c.adam(next[0], next[1], rule, t);
        if (rule.kind == OptimizerKind::kAdamW) {
          q = mx::subtract(kept, c.times(adam, lr), s);
          break;
        }
        auto r = c.plus(adam, c.times(p, wd));
        if (decay[i]) {
          const auto of_p = c.norm(p), of_r = c.norm(r), zero = c.number(0);
          const auto adapts = mx::logical_and(mx::greater(of_p, zero, s), mx::greater(of_r, zero, s), s);
          r = mx::multiply(r, mx::where(adapts, mx::divide(of_p, of_r, s), c.number(1), s), s);
        }
        q = mx::subtract(p, c.times(r, lr), s);
        break;
      }
      case OptimizerKind::kMuon: {
        next[0] = c.blend(rule.beta1, next[0], g);
        const auto u = rule.nesterov ? c.blend(rule.beta1, next[0], g) : next[0];
        q = mx::subtract(kept, c.times(c.orthogonal(u, rule), lr), s);
        break;
      }
    }
    result.params.push_back(mx::where(go, q, p, s));
    for (size_t k = 0; k < next.size(); k++) {
      result.states[k].push_back(mx::where(go, next[k], states[k][i], s));
    }
    if (!control.averages.empty()) {
      const auto moved = c.blend(control.average_decay, control.averages[i], result.params.back());
      result.averages.push_back(mx::where(go, moved, control.averages[i], s));
    }
    if (control.half) result.half.push_back(mx::astype(result.params.back(), mx::bfloat16, s));
  }
  return result;
}

}  // namespace aspis
