// Trains a small vision Mamba on the built-in set of drawn shapes.
#include <cstdio>

#include "aspis/base/error.h"
#include "aspis/train/trainer.h"

int main(int argc, char** argv) try {
  aspis::train::TrainOptions options;
  options.data = "shapes";
  options.image_size = 16;
  options.model = "vision_mamba_fmnist";
  options.model_set = {"depth=2", "embed_dim=32"};
  options.batch = 32;
  options.lr = 6e-3;
  options.crop_padding = 0;
  options.epochs = 2;
  options.limit_batches = 200;
  options.out = argc > 1 ? argv[1] : "run";
  const auto result = aspis::train::train(options, {});
  std::printf("%.1f %% of %ld images are right; the model is in %s\n", 100 * result.evaluation.accuracy,
              static_cast<long>(result.evaluation.samples), result.folder.c_str());
  return result.evaluation.accuracy > 0.12 ? 0 : 1;  // ten classes
} catch (const aspis::Error& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return e.exit_code();
}
