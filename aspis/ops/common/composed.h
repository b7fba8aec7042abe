#pragma once

#include "aspis/ops/common/primitive.h"

/// Pieces of composed versions that MLX's own operations lack or give with
/// float32 accuracy only.
namespace aspis::ops {

/// exp(x). MLX's own is good to about 4e-9 only, in float64 too; its expm1 is
/// the C library's. 1 + expm1(x) has an absolute error of one rounding.
inline mx::array exp(const mx::array& x, mx::StreamOrDevice s = {}) {
  if (x.dtype() != mx::float64) return mx::exp(x, s);
  return mx::add(mx::array(1.0, mx::float64), mx::expm1(x, s), s);
}

/// sigmoid(x), in float64 by its definition with the exponential's argument
/// kept non-positive.
inline mx::array sigmoid(const mx::array& x, mx::StreamOrDevice s = {}) {
  if (x.dtype() != mx::float64) return mx::sigmoid(x, s);
  const auto one = mx::array(1.0, mx::float64);
  const auto e = ops::exp(mx::negative(mx::abs(x, s), s), s);
  const auto positive = mx::divide(one, mx::add(one, e, s), s);
  return mx::where(mx::greater_equal(x, mx::array(0.0, mx::float64), s), positive, mx::multiply(e, positive, s), s);
}

/// log(1 + exp(x)), identity above 20 (the threshold of PyTorch and Mamba).
inline mx::array softplus(const mx::array& x, mx::StreamOrDevice s = {}) {
  const auto limit = mx::array(20.0, x.dtype());
  // The branch that is not taken must stay finite, or its gradient would be NaN.
  const auto safe = mx::minimum(x, limit, s);
  return mx::where(mx::greater(x, limit, s), x, mx::log1p(ops::exp(safe, s), s), s);
}

}  // namespace aspis::ops
