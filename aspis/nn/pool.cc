#include "aspis/nn/pool.h"

#include "aspis/ops/pool/pool.h"

namespace aspis {

mx::array max_pool(const mx::array& x, int64_t window, int64_t stride, int64_t padding) {
  return max_pool(x, PoolOptions{.window = {static_cast<int>(window)},
                                 .stride = {static_cast<int>(stride)},
                                 .padding = {static_cast<int>(padding)}});
}

}  // namespace aspis
