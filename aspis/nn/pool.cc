#include "aspis/nn/pool.h"

#include <mlx/ops.h>

#include "aspis/ops/pool/pool.h"

namespace aspis {

mx::array max_pool(const mx::array& x, int64_t window, int64_t stride, int64_t padding) {
  return max_pool(x, PoolOptions{.window = {static_cast<int>(window)},
                                 .stride = {static_cast<int>(stride)},
                                 .padding = {static_cast<int>(padding)}});
}

mx::array padded_to_patches(const mx::array& images, int64_t patch) {
  const auto p = static_cast<int>(patch), H = images.shape(1), W = images.shape(2);
  const int below = (p - H % p) % p, right = (p - W % p) % p;
  if (below + right == 0) return images;
  return mx::pad(images, {{0, 0}, {0, below}, {0, right}, {0, 0}}, mx::array(0, images.dtype()));
}

}  // namespace aspis
