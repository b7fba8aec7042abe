#include "aspis/models/vision_transformer.h"

#include <mlx/ops.h>

#include "aspis/base/error.h"
#include "aspis/nn/test_support.h"

namespace aspis {
namespace {

using golden::expect_gradients;
using golden::load_case;
using golden::load_params;
using golden::normalised_error;
using golden::tolerance;

VisionTransformerConfig small() {
  VisionTransformerConfig c;
  c.img_size = 12;
  c.patch_size = 4;
  c.in_channels = 2;
  c.embed_dim = 8;
  c.depth = 2;
  c.num_heads = 2;
  c.num_classes = 3;
  return c;
}

}  // namespace

TEST_CASE("vision_transformer_matches_the_golden_values_and_gradients") {
  const auto golden = load_case("vision_transformer");
  for (const auto dtype : {mx::float64, mx::float32}) {
    VisionTransformer model(small());
    load_params(model, golden, dtype);
    const auto images = mx::astype(golden.at("in/images"), dtype);
    CHECK(normalised_error(model.encode(images), golden.at("out/encoded")) < tolerance(dtype));
    CHECK(normalised_error(model.logits(images), golden.at("out/logits")) < tolerance(dtype));
    expect_gradients(model, golden, dtype, [&] { return model.logits(images); });
  }
}

TEST_CASE("the_twin_of_volumes_matches_the_golden_values_and_gradients") {
  const auto golden = load_case("twin", "vision_mamba_nd");
  VisionTransformerConfig c;
  c.img_size = 6;
  c.patch_size = 2;
  c.embed_dim = 6;
  c.depth = 2;
  c.num_heads = 2;
  c.num_classes = 3;
  c.input_dim = 3;
  for (const auto dtype : {mx::float64, mx::float32}) {
    VisionTransformer model(c);
    load_params(model, golden, dtype);
    const auto images = mx::astype(golden.at("in/images"), dtype),
               other = mx::astype(golden.at("in/other"), dtype);
    CHECK(normalised_error(model.encode(images), golden.at("out/encoded")) < tolerance(dtype));
    CHECK(normalised_error(model.encode(other), golden.at("out/other")) < tolerance(dtype));
    expect_gradients(model, golden, dtype, [&] { return model.logits(images); });
  }
}

TEST_CASE("the_twin_has_the_parameter_count_of_the_specification") {
  CHECK(VisionTransformer(VisionTransformerConfig{}).parameter_count() == 10812288);
}

TEST_CASE("the_twin_takes_tokens_and_subsets_as_vision_mamba_does") {
  const VisionTransformer model(small(), 2);
  const auto images = load_case("vision_transformer").at("in/images");
  const mx::array chosen({4, 0, 8}, {3}, mx::int32);
  const auto tokens = model.embed_patches(images);
  const auto got = model.encode(images, chosen);
  CHECK(got.shape() == mx::Shape{2, 3, 8});
  CHECK(normalised_error(got, model.encode(mx::take(tokens, chosen, 1), chosen)) < 1e-5);
  // Attention does not know the order of its tokens: only their positions count.
  const auto shuffled = model.encode(images, mx::array({8, 4, 0}, {3}, mx::int32));
  CHECK(normalised_error(mx::take(shuffled, mx::array({1, 2, 0}, {3}, mx::int32), 1), got) < 1e-5);
}

TEST_CASE("transformer_configs_round_trip_and_are_checked") {
  const auto text = small().to_json();
  CHECK(VisionTransformerConfig::from_json(text).to_json() == text);
  CHECK_THROWS_WITH_AS(VisionTransformerConfig::from_json(R"({"num_heads": 7})"),
                       doctest::Contains("num_heads must divide embed_dim; got 7 and 384"), Error);
  CHECK_THROWS_WITH_AS(VisionTransformerConfig::from_json(R"({"num_headz": 6})"), doctest::Contains("num_heads"),
                       Error);
  CHECK_THROWS_WITH_AS(VisionTransformerConfig::from_json(R"({"mlp_ratio": 0})"), doctest::Contains("mlp_ratio"),
                       Error);
  CHECK_THROWS_AS(VisionTransformerConfig::from_json(R"({"d_state": 6})"), Error);
}

TEST_CASE("multiply_adds_of_the_twin_are_those_of_its_layers") {
  // One layer: q, k, v, out 4 * 8 * 8, MLP 2 * 4 * 8 * 8, attention 2 * 9 * 8 per token.
  const auto cost = VisionTransformer(small()).cost();
  CHECK(cost.macs == 9 * 32 * 8 + 2 * 9 * (256 + 512 + 144) + 24);
  CHECK(cost.scan_macs == 0);
}

TEST_CASE("vision_transformer_counts_the_work_of_its_graph") {
  const VisionTransformer model(small(), 1);
  const auto counted = count_work({model.logits(mx::zeros({1, 12, 12, 2}))});
  CHECK(counted.macs == model.cost().macs);
  CHECK(counted.scan_macs == model.cost().scan_macs);
  CHECK(counted.exps == model.cost().exps);
}

TEST_CASE("vision_transformer_is_a_backbone_with_a_stage_per_block") {
  const VisionTransformer model(small(), 1);
  const auto images = mx::reshape(mx::arange(2.0 * 12 * 12 * 2), {2, 12, 12, 2}) / mx::array(576.f);
  REQUIRE(model.stages().size() == 2);
  CHECK(model.stages()[1].reduction == 4);
  CHECK(model.stages()[1].channels == 8);
  const auto maps = model.feature_maps(images, {-1, 0});
  REQUIRE(maps.size() == 2);
  CHECK(maps[0].shape() == mx::Shape{2, 3, 3, 8});
  // The last map is what the final norm encodes.
  CHECK(normalised_error(model.norm(mx::reshape(maps[0], {2, 9, 8})), model.encode(images)) < 1e-6);
  CHECK(normalised_error(maps[1], maps[0]) > 1e-3);
  CHECK_THROWS_WITH_AS(model.feature_maps(images, {2}), doctest::Contains("out_indices must lie in [-2, 2)"),
                       Error);
}

}  // namespace aspis
