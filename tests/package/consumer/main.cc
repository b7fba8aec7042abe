#include <mlx/mlx.h>

#include <cstdio>

#include "aspis/ops/selective_scan/selective_scan.h"
#include "aspis/ops/silu/silu.h"

namespace mx = mlx::core;

int main() {
  auto y = aspis::silu(mx::ones({3}));
  y.eval();
  std::printf("y[0] = %.4f\n", y.data<float>()[0]);
  auto out = aspis::selective_scan(mx::ones({1, 4, 8}), mx::full({1, 4, 8}, 0.1f), mx::full({8, 2}, -1.0f),
                                   mx::ones({1, 4, 2}), mx::ones({1, 4, 2}));
  out.eval();
  std::printf("scan of 4 tokens: %.4f\n", out.data<float>()[3 * 8]);
  return out.size() == 32 ? 0 : 1;
}
