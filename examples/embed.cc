// How alike two pictures are to a model: embed RUN PICTURE PICTURE.
#include <mlx/ops.h>

#include <cstdio>

#include "aspis/base/error.h"
#include "aspis/data/transform.h"
#include "aspis/train/classifier.h"

namespace mx = mlx::core;

int main(int argc, char** argv) try {
  if (argc < 4) return std::fprintf(stderr, "usage: embed RUN PICTURE PICTURE\n"), 2;
  const auto c = aspis::train::load_classifier(argv[1]);
  const aspis::data::Transform transform(c.preprocessing.transform());
  std::vector<float> values(static_cast<size_t>(2 * transform.values()));
  for (int i = 0; i < 2; i++) {
    transform.write(transform.prepare(aspis::data::read_image(argv[2 + i])),
                    values.data() + i * transform.values());
  }
  const auto images = aspis::train::image_array(values, 2, c.preprocessing.height, c.preprocessing.width,
                                                c.preprocessing.channels);
  const auto f = c.model->pool(c.model->forward_features(images));  // {2, width}
  const auto unit = f / mx::sqrt(mx::sum(mx::square(f), 1, true));
  const float cosine = mx::sum(mx::take(unit, 0, 0) * mx::take(unit, 1, 0)).item<float>();
  std::printf("%d numbers each, cosine similarity %.3f\n", f.shape(1), static_cast<double>(cosine));
  return cosine > -1.001f && cosine < 1.001f ? 0 : 1;
} catch (const aspis::Error& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return e.exit_code();
}
