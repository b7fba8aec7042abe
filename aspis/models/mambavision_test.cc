#include "aspis/models/mambavision.h"

#include <mlx/ops.h>

#include "aspis/base/error.h"
#include "aspis/models/registry.h"
#include "aspis/nn/test_support.h"

namespace aspis {
namespace {

using golden::expect_gradients;
using golden::load_case;
using golden::load_params;
using golden::normalised_error;
using golden::tolerance;

MambaVisionConfig small(std::vector<int64_t> windows) {
  MambaVisionConfig c;
  c.img_size = 64;
  c.in_channels = 2;
  c.num_classes = 3;
  c.dim = 2;
  c.in_dim = 3;
  c.depths = {1, 1, 3, 2};
  c.num_heads = {1, 1, 2, 4};
  c.window_size = std::move(windows);
  c.mlp_ratio = 2;
  c.d_state = 3;
  return c;
}

struct Case {
  const char* name;
  MambaVisionConfig config;
};

std::vector<Case> cases() {
  std::vector<Case> list{{"whole", small({8, 8, 4, 2})},
                         {"windows", small({8, 8, 2, 2})},
                         {"padded", small({8, 8, 3, 2})},
                         {"compat", small({8, 8, 3, 2})},
                         {"training", small({8, 8, 4, 2})}};
  list[1].config.layer_scale = list[3].config.layer_scale = 1;
  list[3].config.compat = true;
  return list;
}

}  // namespace

TEST_CASE("mambavision_matches_the_golden_values_and_gradients") {
  for (const auto& [name, config] : cases()) {
    CAPTURE(std::string(name));
    const auto golden = load_case(name, "mambavision");
    for (const auto dtype : {mx::float64, mx::float32}) {
      MambaVision model(config);
      load_params(model, golden, dtype);
      if (std::string(name) != "training") model.eval();
      const auto images = mx::astype(golden.at("in/images"), dtype);
      // Batch statistics over a handful of pixels are divided by small deviations.
      const double limit = tolerance(dtype) * (std::string(name) == "training" ? 20 : 4);
      const auto maps = model.feature_maps(images, {});
      REQUIRE(maps.size() == 4);
      for (size_t i = 0; i < 4; i++) {
        CAPTURE(i);
        CHECK(maps[i].shape() == golden.at("out/map" + std::to_string(i)).shape());
        CHECK(normalised_error(maps[i], golden.at("out/map" + std::to_string(i))) < limit);
      }
      CHECK(normalised_error(model.forward_features(images), golden.at("out/features")) < limit);
      CHECK(normalised_error(model.logits(images), golden.at("out/logits")) < limit);
      if (golden.count("in/cotangent") && dtype == mx::float64) {
        expect_gradients(model, golden, dtype, [&] { return model.logits(images); });
      }
    }
  }
}

TEST_CASE("mambavision_has_the_published_parameter_counts_and_multiply_adds") {
  const BlankWeights blank;
  const std::pair<const char*, int64_t> counts[] = {
      {"mamba_vision_T", 31794248},         {"mamba_vision_T2", 35104008},
      {"mamba_vision_S", 50140584},         {"mamba_vision_B", 97685288},
      {"mamba_vision_B_21k", 97685288},     {"mamba_vision_L", 227961048},
      {"mamba_vision_L_21k", 227961048},    {"mamba_vision_L2", 241554824},
      {"mamba_vision_L2_512_21k", 241554824}, {"mamba_vision_L3_256_21k", 739570472},
      {"mamba_vision_L3_512_21k", 739570472}};
  for (const auto& [name, count] : counts) {
    CAPTURE(std::string(name));
    CHECK(make_model(name)->parameter_count() == count);
  }
  // The published 4.4 G are those of convolutions and linear layers; attention and scan come on top.
  auto tiny = make_model("mamba_vision_T");
  tiny->eval();
  CHECK(static_cast<double>(tiny->cost().macs) == doctest::Approx(4.566e9).epsilon(0.005));
  CHECK(make_model("mamba_vision_L3_512_21k")->input_shape() == std::vector<int64_t>{512, 512, 3});
}

TEST_CASE("mambavision_takes_any_image_and_is_the_same_alone_and_in_a_batch") {
  MambaVision model(small({8, 8, 3, 2}), 3);
  model.eval();
  for (const auto& [h, w] : {std::pair{32, 32}, {33, 47}, {64, 97}, {5, 5}}) {
    const auto images = mx::sin(mx::reshape(mx::arange(3.0 * h * w * 2), {3, h, w, 2}));
    const auto all = model.logits(images);
    CHECK(all.shape() == mx::Shape{3, 3});
    const auto one = model.logits(mx::slice(images, {1, 0, 0, 0}, {2, h, w, 2}));
    CHECK(normalised_error(one, mx::slice(all, {1, 0}, {2, 3})) < 1e-5);
  }
  // What lies in the padding of a window does not count: a map of one window, larger windows.
  MambaVisionConfig wide = small({8, 8, 4, 2});
  MambaVision exact(wide, 3);
  wide.window_size = {8, 8, 7, 5};
  MambaVision padded(wide, 3);
  exact.eval(), padded.eval();
  const auto images = mx::sin(mx::reshape(mx::arange(1.0 * 64 * 64 * 2), {1, 64, 64, 2}));
  // Attention sees the same keys; the convolution of the scan sees zeros between the rows.
  CHECK(normalised_error(exact.feature_maps(images, {1})[0], padded.feature_maps(images, {1})[0]) < 1e-6);
  CHECK(padded.logits(images).shape() == mx::Shape{1, 3});
}

TEST_CASE("mambavision_configs_round_trip_and_are_checked") {
  CHECK(MambaVisionConfig::from_json(small({8, 8, 4, 2}).to_json()).to_json() == small({8, 8, 4, 2}).to_json());
  CHECK_THROWS_WITH_AS(MambaVisionConfig::from_json(R"({"depths": [1, 2, 3]})"), doctest::Contains("depths"), Error);
  CHECK_THROWS_WITH_AS(MambaVisionConfig::from_json(R"({"num_heads": [2, 4, 7, 16]})"),
                       doctest::Contains("num_heads must divide"), Error);
  CHECK_THROWS_WITH_AS(MambaVisionConfig::from_json(R"({"window_size": [8, 8, 0, 7]})"),
                       doctest::Contains("window_size must be at least 1"), Error);
  CHECK_THROWS_WITH_AS(MambaVisionConfig::from_json(R"({"d_state": 300})"), doctest::Contains("d_state"), Error);
  const MambaVision model(small({8, 8, 4, 2}), 1);
  CHECK_THROWS_WITH_AS(model.logits(mx::zeros({1, 64, 64, 3})), doctest::Contains("{B, H, W, 2}"), Error);
  CHECK_THROWS_WITH_AS(model.feature_maps(mx::zeros({1, 64, 64, 2}), {4}), doctest::Contains("[-4, 4)"), Error);
}

}  // namespace aspis
