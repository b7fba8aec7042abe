#include "aspis/models/edifice_mambavision.h"

#include <mlx/ops.h>

#include <cmath>

#include "aspis/base/error.h"
#include "aspis/models/golden_model.h"
#include "aspis/models/registry.h"

namespace aspis {
namespace {

EdificeConfig small(bool compat) {
  EdificeConfig c;
  c.img_size = compat ? 160 : 64;
  c.in_channels = 2;
  c.dim = 4;
  c.depths = {1, 1, 2, 2};
  c.num_heads = {1, 1, 2, 4};
  c.mlp_ratio = 2;
  c.d_state = 3;
  c.num_classes = 3;
  c.compat = compat;
  return c;
}

}  // namespace

TEST_CASE("edifice_mambavision_matches_the_golden_values_and_gradients") {
  golden::expect_golden_model<EdificeMambaVision>(small(true), "edifice_compat", "hybrids");
  golden::expect_golden_model<EdificeMambaVision>(small(false), "edifice", "hybrids");
}

TEST_CASE("edifice_mambavision_takes_parameters_in_axons_layout") {
  const auto file = golden::load_case("axon", "hybrids"), golden = golden::load_case("edifice_compat", "hybrids");
  EdificeMambaVision model(small(true));
  auto values = golden::under(file, "axon");
  model.load(model.from_axon(values));
  model.eval();
  CHECK(golden::normalised_error(model.logits(golden.at("in/images0")), golden.at("out/logits0")) < 4e-5);
  // Channels last, as Axon stores them for such input.
  for (auto& [name, value] : values) {
    if (value.ndim() == 4) value = mx::transpose(value, {2, 3, 1, 0});
  }
  model.load(model.from_axon(values));
  CHECK(golden::normalised_error(model.logits(golden.at("in/images0")), golden.at("out/logits0")) < 4e-5);
  values[0].second = mx::zeros({7});
  CHECK_THROWS_WITH_AS(model.load(model.from_axon(values)), doctest::Contains("another shape"), Error);
}

TEST_CASE("edifice_mambavision_has_the_parameter_counts_of_its_configs") {
  const BlankWeights blank;
  const auto count = [](EdificeConfig c, int64_t classes) {
    c.compat = true;
    c.num_classes = classes;
    return EdificeMambaVision(c).parameter_count();
  };
  CHECK(count(EdificeConfig::tiny(), 0) == 31135150);
  CHECK(count(EdificeConfig::tiny(), 1000) == 31776150);
  CHECK(count(EdificeConfig::tiny(), 10) == 31141560);
  CHECK(count(EdificeConfig::small(), 0) == 49292310);
  CHECK(count(EdificeConfig::small(), 1000) == 50061310);
  CHECK(count(EdificeConfig::small(), 10) == 49300000);
  CHECK(count(EdificeConfig::base(), 0) == 96492350);
  CHECK(count(EdificeConfig::base(), 1000) == 97517350);
  CHECK(count(EdificeConfig::base(), 10) == 96502600);
  for (const auto& [name, want] : {std::pair{"edifice_mambavision_tiny", 31135150},
                                   {"edifice_mambavision_small", 49292310},
                                   {"edifice_mambavision_base", 96492350}}) {
    CHECK(make_model(name)->parameter_count() == want);
    CHECK(make_model(name)->config_json().find("\"compat\": true") != std::string::npos);
  }
}

TEST_CASE("edifice_mambavision_is_built_with_its_options") {
  EdificeConfig c;
  c.img_size = 32;
  c.dim = 16;
  c.depths = {1, 1, 2, 1};
  c.num_heads = {1, 2, 2, 4};
  c.mlp_ratio = 2;
  c.d_state = 4;
  c.num_classes = 10;
  c.compat = true;
  const auto images = mx::sin(mx::reshape(mx::arange(2.0 * 32 * 32 * 3), {2, 32, 32, 3}));
  const auto model = build_edifice(c), backbone = build_edifice_backbone(c);
  model->eval(), backbone->eval();
  CHECK((*model)(images).shape() == mx::Shape{2, 10});
  CHECK((*backbone)(images).shape() == mx::Shape{2, 128});
  CHECK((model->output_size() == 10 && backbone->output_size() == 128 && model->feature_size() == 128));
  CHECK(model->input_shape() == std::vector<int64_t>{32, 32, 3});
  // A norm over one column leaves its bias, whatever the image.
  CHECK(golden::values_of((*backbone)(images)) == std::vector<double>(256, 0.0));
  CHECK(backbone->stages().back().channels == 128);
  CHECK_THROWS_WITH_AS((*model)(mx::zeros({1, 32, 64, 3})), doctest::Contains("compat false"), Error);
  CHECK((*model)(mx::zeros({1, 64, 32, 3})).shape() == mx::Shape{1, 10});
  c.compat = false;
  c.dropout = 0.5;
  const EdificeMambaVision dropping(c, 4);
  const auto run = [&](int64_t step) {
    const RandomStep scope(1, step);
    return golden::values_of(dropping(images));
  };
  CHECK((run(0) == run(0) && run(0) != run(1)));
}

TEST_CASE("edifice_mambavision_configs_round_trip_and_are_checked") {
  CHECK(EdificeConfig::from_json(small(true).to_json()).to_json() == small(true).to_json());
  CHECK(small(true).to_json().find("\"image_size\": 160") != std::string::npos);
  CHECK_THROWS_WITH_AS(EdificeConfig::from_json(R"({"depths": [1, 2, 3]})"), doctest::Contains("depths"), Error);
  CHECK_THROWS_WITH_AS(EdificeConfig::from_json(R"({"image_size": 0})"), doctest::Contains("image_size"), Error);
  CHECK_THROWS_WITH_AS(EdificeConfig::from_json(R"({"num_heads": [1, 1, 7, 1]})"), doctest::Contains("num_heads"),
                       Error);
}

}  // namespace aspis
