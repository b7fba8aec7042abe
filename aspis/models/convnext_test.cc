#include "aspis/models/convnext.h"

#include <mlx/ops.h>

#include "aspis/base/error.h"
#include "aspis/models/golden_model.h"
#include "aspis/models/registry.h"

namespace aspis {
namespace {

ConvNextConfig small() {
  ConvNextConfig c;
  c.img_size = 64;
  c.in_channels = 2;
  c.num_classes = 3;
  c.depths = {1, 1, 2, 1};
  c.dims = {4, 6, 8, 10};
  return c;
}

}  // namespace

TEST_CASE("convnext_is_timms_at_any_size") {
  golden::expect_golden_model<ConvNext>(small(), "convnext", "baselines");
}

TEST_CASE("convnext_takes_torchvisions_weights_by_name") {
  const auto golden = golden::load_case("convnext_torchvision", "baselines");
  auto config = small();
  config.in_channels = 3;
  ConvNext model(config);
  NamedArrays values;
  for (const auto& [name, value] : golden::under(golden, "param")) {
    const auto here = convnext_name_from_torchvision(name);
    REQUIRE(here);
    values.emplace_back(*here, value);
  }
  model.load(values);
  CHECK(golden::normalised_error(model.logits(golden.at("in/images")), golden.at("out/logits")) < 4e-5);
  for (const char* name : {"features", "features.8.0.weight", "features.1.0.block.1.weight", "features.1.0.weight",
                           "features.2.0.0.weight", "classifier.1.weight", "stages.0.blocks.0.norm.weight", ""}) {
    CHECK_FALSE(convnext_name_from_torchvision(name));
  }
}

TEST_CASE("convnext_has_the_published_parameter_counts_and_multiply_adds") {
  const BlankWeights blank;
  CHECK(make_model("convnext_tiny")->parameter_count() == 28589128);
  CHECK(make_model("convnext_small")->parameter_count() == 50223688);
  CHECK(make_model("convnext_base")->parameter_count() == 88591464);
  CHECK(static_cast<double>(make_model("convnext_tiny")->cost().macs) == doctest::Approx(4.46e9).epsilon(0.01));
}

TEST_CASE("convnext_configs_round_trip_and_are_checked") {
  CHECK(ConvNextConfig::from_json(small().to_json()).to_json() == small().to_json());
  CHECK_THROWS_WITH_AS(ConvNextConfig::from_json(R"({"dims": [1, 2, 3]})"), doctest::Contains("dims"), Error);
  CHECK_THROWS_WITH_AS(ConvNextConfig::from_json(R"({"kernel_size": 4})"), doctest::Contains("kernel_size"),
                       Error);
  const ConvNext model(small(), 1);
  CHECK_THROWS_WITH_AS(model.logits(mx::zeros({1, 31, 64, 2})), doctest::Contains("at least 32"), Error);
}

}  // namespace aspis
