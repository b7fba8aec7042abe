#pragma once

#include <numbers>
#include <utility>
#include <vector>

#include "aspis/ops/common/primitive.h"

namespace aspis::ops {

/// Sine and cosine of moderate x. MLX's own are good to 3e-7 only, in float64 too.
inline std::pair<mx::array, mx::array> sine_cosine(const mx::array& x, mx::StreamOrDevice s = {}) {
  if (x.dtype() != mx::float64) return {mx::sin(x, s), mx::cos(x, s)};
  const auto c = [&](double v) { return mx::array(v, mx::float64); };
  const auto quarter = mx::floor(mx::add(mx::multiply(x, c(2 / std::numbers::pi), s), c(0.5), s), s);
  const auto r = mx::subtract(x, mx::multiply(mx::stop_gradient(quarter, s), c(std::numbers::pi / 2), s), s);
  const auto z = mx::multiply(r, r, s);
  // Taylor to r^19: |r| <= pi / 4 leaves 1e-18.
  mx::array sine = c(0), cosine = c(0);
  double odd = 1, even = 1;
  std::vector<double> odds, evens;
  for (int k = 0; k < 10; k++) {
    odds.push_back(odd), evens.push_back(even);
    odd /= -(2 * k + 2.0) * (2 * k + 3.0);
    even /= -(2 * k + 1.0) * (2 * k + 2.0);
  }
  for (int k = 9; k >= 0; k--) {
    sine = mx::add(mx::multiply(sine, z, s), c(odds[k]), s);
    cosine = mx::add(mx::multiply(cosine, z, s), c(evens[k]), s);
  }
  sine = mx::multiply(sine, r, s);
  const auto turn =
      mx::subtract(quarter, mx::multiply(c(4), mx::floor(mx::multiply(quarter, c(0.25), s), s), s), s);
  const auto is = [&](double v) { return mx::equal(turn, c(v), s); };
  const auto choose = [&](const mx::array& a, const mx::array& b) {
    return mx::where(is(0), a, mx::where(is(1), b, mx::where(is(2), mx::negative(a, s), mx::negative(b, s), s), s),
                     s);
  };
  return {choose(sine, cosine), choose(cosine, mx::negative(sine, s))};
}

}  // namespace aspis::ops
