#pragma once

#include <string>

#include "aspis/models/image_model.h"
#include "aspis/nn/test_support.h"

/// Helper of the tests of model families.
namespace aspis::golden {

/// A family against a case of a golden file that holds images0, features0, logits0,
/// map0.0 .. and the same for more sizes of images; gradients, if there are any, are those of the last size.
template <typename Model, typename Config>
void expect_golden_model(const Config& config, const std::string& name, const std::string& file,
                         bool training = false, double slack = 1) {
  CAPTURE(name);
  const auto golden = load_case(name, file);
  for (const auto dtype : {mx::float64, mx::float32}) {
    CAPTURE(dtype == mx::float64);
    Model model(config);
    load_params(model, golden, dtype);
    model.train(training);
    const double limit = slack * 4 * tolerance(dtype);
    int last = 0;
    for (; golden.count("in/images" + std::to_string(last)); last++) {
      const auto i = std::to_string(last);
      CAPTURE(last);
      const auto images = mx::astype(golden.at("in/images" + i), dtype);
      CHECK(normalised_error(model.forward_features(images), golden.at("out/features" + i)) < limit);
      CHECK(normalised_error(model.logits(images), golden.at("out/logits" + i)) < limit);
      if (!golden.count("out/map" + i + ".0")) continue;
      const auto maps = model.feature_maps(images, {});
      const auto stages = model.stages();
      REQUIRE(maps.size() == stages.size());
      for (size_t j = 0; j < maps.size(); j++) {
        CAPTURE(j);
        const auto& want = golden.at("out/map" + i + "." + std::to_string(j));
        CHECK(maps[j].shape() == want.shape());
        CHECK(maps[j].shape(3) == stages[j].channels);
        CHECK(normalised_error(maps[j], want) < limit);
      }
    }
    REQUIRE(last > 0);
    const auto images = mx::astype(golden.at("in/images" + std::to_string(last - 1)), dtype);
    if (dtype == mx::float64 && golden.count("in/cotangent"))
      expect_gradients(
          model, golden, dtype, [&] { return model.logits(images); }, 4 * slack);
  }
}

}  // namespace aspis::golden
