#pragma once

#include "aspis/ops/common/primitive.h"

/// Pieces of composed versions that MLX's own operations lack or give with
/// float32 accuracy only.
namespace aspis::ops {

/// sigmoid(x). MLX's own is good to about 4e-9 in float64, so float64 takes
/// the definition with the exponential's argument kept non-positive.
inline mx::array sigmoid(const mx::array& x, mx::StreamOrDevice s = {}) {
  if (x.dtype() != mx::float64) return mx::sigmoid(x, s);
  const auto one = mx::array(1.0, mx::float64);
  const auto e = mx::exp(mx::negative(mx::abs(x, s), s), s);
  const auto positive = mx::divide(one, mx::add(one, e, s), s);
  return mx::where(mx::greater_equal(x, mx::array(0.0, mx::float64), s), positive, mx::multiply(e, positive, s), s);
}

/// log(1 + exp(x)), identity above 20 (the threshold of PyTorch and Mamba).
inline mx::array softplus(const mx::array& x, mx::StreamOrDevice s = {}) {
  const auto limit = mx::array(20.0, x.dtype());
  // The branch that is not taken must stay finite, or its gradient would be NaN.
  const auto safe = mx::minimum(x, limit, s);
  return mx::where(mx::greater(x, limit, s), x, mx::log1p(mx::exp(safe, s), s), s);
}

}  // namespace aspis::ops
