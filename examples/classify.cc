// Says what is in a picture: classify RUN PICTURE.
#include <algorithm>
#include <cstdio>

#include "aspis/base/error.h"
#include "aspis/data/transform.h"
#include "aspis/train/classifier.h"

int main(int argc, char** argv) try {
  if (argc < 3) return std::fprintf(stderr, "usage: classify RUN PICTURE\n"), 2;
  const auto c = aspis::train::load_classifier(argv[1]);
  const aspis::data::Transform transform(c.preprocessing.transform());
  std::vector<float> values(static_cast<size_t>(transform.values()));
  transform.write(transform.prepare(aspis::data::read_image(argv[2])), values.data());
  const auto& pre = c.preprocessing;
  const auto p = aspis::train::predict(*c.model, values, 1, pre.height, pre.width, pre.channels)[0];
  const auto best = std::max_element(p.begin(), p.end()) - p.begin();
  std::printf("%s: %s (%.1f %%)\n", argv[2], pre.classes[static_cast<size_t>(best)].c_str(),
              100.0 * p[static_cast<size_t>(best)]);
  return 0;
} catch (const aspis::Error& e) {
  std::fprintf(stderr, "%s\n", e.what());
  return e.exit_code();
}
