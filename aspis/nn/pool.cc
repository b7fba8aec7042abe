#include "aspis/nn/pool.h"

#include <mlx/ops.h>

#include <limits>

namespace aspis {

mx::array relu(const mx::array& x) { return mx::maximum(x, mx::array(0, x.dtype())); }

mx::array max_pool(const mx::array& x, int64_t window, int64_t stride, int64_t padding) {
  const int w = static_cast<int>(window), s = static_cast<int>(stride), p = static_cast<int>(padding);
  auto y =
      mx::pad(x, {{0, 0}, {p, p}, {p, p}, {0, 0}}, mx::array(-std::numeric_limits<float>::infinity(), x.dtype()));
  // Rows first, then columns: 2 window - 2 comparisons a value instead of window^2 - 1.
  for (const int axis : {1, 2}) {
    const int count = (y.shape(axis) - w) / s + 1;
    mx::Shape start(4, 0), stop = y.shape(), step(4, 1);
    step[axis] = s;
    const auto shifted = [&](int i) {
      start[axis] = i;
      stop[axis] = i + (count - 1) * s + 1;
      return mx::slice(y, start, stop, step);
    };
    auto most = shifted(0);
    for (int i = 1; i < w; i++) most = mx::maximum(most, shifted(i));
    y = most;
  }
  return y;
}

}  // namespace aspis
