// A model as a backbone: the feature maps of its stages, on an image that is not square.
#include <mlx/ops.h>

#include <cstdio>

#include "aspis/base/error.h"
#include "aspis/models/registry.h"

namespace mx = mlx::core;

int main() try {
  const auto model = aspis::make_model("mamba_vision_T", {{"dim", "16"}, {"in_dim", "8"}, {"num_classes", "0"}});
  model->eval();
  const auto maps = model->feature_maps(mx::ones({1, 96, 160, 3}));
  const auto stages = model->stages();
  for (size_t i = 0; i < maps.size(); i++) {
    std::printf("%s: %d x %d x %d, a step is %ld pixels\n", stages[i].name.c_str(), maps[i].shape(1),
                maps[i].shape(2), maps[i].shape(3), static_cast<long>(stages[i].reduction));
  }
  return maps.size() == 4 && mx::all(mx::isfinite(maps[3])).item<bool>() ? 0 : 1;
} catch (const aspis::Error& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return e.exit_code();
}
