#include <mlx/ops.h>

#include "aspis/ops/common/composed.h"
#include "aspis/ops/gated_norm/gated_norm.h"

namespace aspis {

mx::array gated_norm_composed(const mx::array& x, const GatedNormOptions& o, bool center, mx::StreamOrDevice s) {
  const int width = x.shape(-1), group = o.group_size > 0 ? o.group_size : width;
  const auto gate = [&](const mx::array& v) {
    return o.z ? mx::multiply(v, mx::multiply(*o.z, ops::sigmoid(*o.z, s), s), s) : v;
  };
  mx::Shape grouped = x.shape();
  grouped.back() = width / group;
  grouped.push_back(group);
  auto v = mx::reshape(o.norm_before_gate ? x : gate(x), grouped, s);
  if (center) v = mx::subtract(v, mx::mean(v, -1, true, s), s);
  const auto variance = mx::mean(mx::multiply(v, v, s), -1, true, s);
  // 1 / sqrt: MLX's rsqrt is an estimate in some places.
  v = mx::divide(v, mx::sqrt(mx::add(variance, mx::array(o.eps, x.dtype()), s), s), s);
  v = mx::reshape(v, x.shape(), s);
  if (o.weight) v = mx::multiply(v, *o.weight, s);
  if (o.bias) v = mx::add(v, *o.bias, s);
  return o.norm_before_gate ? gate(v) : v;
}

}  // namespace aspis
