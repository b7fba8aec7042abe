#include "aspis/models/vision_mamba.h"

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

/// The model of the golden file.
VisionMambaConfig small() {
  VisionMambaConfig c;
  c.img_size = 12;
  c.patch_size = 4;
  c.in_channels = 2;
  c.embed_dim = 8;
  c.depth = 2;
  c.d_state = 4;
  c.num_classes = 3;
  return c;
}

/// The models of vision_mamba_nd: {case, config}.
std::vector<std::pair<std::string, VisionMambaConfig>> models_of_other_kinds() {
  VisionMambaConfig c;
  c.img_size = 6;
  c.patch_size = 2;
  c.embed_dim = 6;
  c.depth = 2;
  c.d_state = 3;
  c.d_conv = 3;
  c.num_classes = 3;
  VisionMambaConfig mean = c, vmamba = c, volume = c, sequence = c;
  mean.merge = "mean";
  vmamba.merge = "vmamba";
  volume.input_dim = 3;
  sequence.input_dim = 4;
  sequence.img_size = 4;
  sequence.in_channels = 2;
  sequence.depth = 1;
  sequence.num_temporal_frames = 4;
  sequence.temporal_patch_size = 2;
  return {{"volume", volume}, {"sequence", sequence}, {"mean", mean}, {"vmamba", vmamba}};
}

VisionMambaConfig tiny(int64_t input_dim) {
  VisionMambaConfig c = small();
  c.input_dim = input_dim;
  c.img_size = 8;
  return c;
}

std::string refused(const std::string& json) {
  try {
    VisionMambaConfig::from_json(json, "config.json");
  } catch (const Error& e) {
    CHECK(e.kind() == ErrorKind::kModel);
    return e.what();
  }
  FAIL(json << " was taken");
  return "";
}

bool contains(const std::string& text, const std::string& part) {
  INFO(text);
  CHECK(text.find(part) != std::string::npos);
  return true;
}

}  // namespace

TEST_CASE("vision_mamba_matches_the_golden_values_and_gradients") {
  const auto golden = load_case("vision_mamba");
  for (const auto dtype : {mx::float64, mx::float32}) {
    VisionMamba model(small());
    load_params(model, golden, dtype);
    const auto images = mx::astype(golden.at("in/images"), dtype);
    CHECK(normalised_error(model.embed_patches(images), golden.at("out/tokens")) < tolerance(dtype));
    CHECK(normalised_error(model.encode(images), golden.at("out/encoded")) < tolerance(dtype));
    CHECK(normalised_error(model.logits(images), golden.at("out/logits")) < tolerance(dtype));
    expect_gradients(model, golden, dtype, [&] { return model.logits(images); });
  }
}

TEST_CASE("subsets_of_patches_are_gathered_with_their_positions") {
  const auto golden = load_case("vision_mamba");
  VisionMamba model(small());
  load_params(model, golden, mx::float32);
  const auto images = golden.at("in/images"), tokens = golden.at("out/tokens"), want = golden.at("out/subset");
  const mx::array chosen({7, 2, 4, 0}, {4}, mx::int32);
  CHECK(normalised_error(model.encode(images, chosen), want) < 1e-5);
  CHECK(normalised_error(model.encode(tokens, chosen), want) < 1e-5);
  CHECK(normalised_error(model.encode(mx::take(tokens, chosen, 1), chosen), want) < 1e-5);
  const auto each = mx::array({7, 2, 4, 0, 7, 2, 4, 0}, {2, 4}, mx::uint32);
  CHECK(normalised_error(model.encode(images, each), want) < 1e-5);
  // Its own patches for each image.
  const auto mixed = model.encode(images, mx::array({7, 2, 4, 0, 1, 3, 5, 8}, {2, 4}, mx::int32));
  const auto second = model.encode(images, mx::array({1, 3, 5, 8}, {4}, mx::int32));
  CHECK(normalised_error(mx::slice(mixed, {0, 0, 0}, {1, 4, 8}), mx::slice(want, {0, 0, 0}, {1, 4, 8})) < 1e-5);
  CHECK(normalised_error(mx::slice(mixed, {1, 0, 0}, {2, 4, 8}), mx::slice(second, {1, 0, 0}, {2, 4, 8})) < 1e-5);
  // All patches in another order are still no grid.
  const mx::array shuffled({8, 7, 6, 5, 4, 3, 2, 1, 0}, {9}, mx::int32);
  CHECK(normalised_error(model.encode(images, shuffled), model.encode(mx::take(tokens, shuffled, 1), shuffled)) <
        1e-5);
  CHECK(normalised_error(model.encode(tokens), golden.at("out/encoded")) < 1e-5);
}

TEST_CASE("blocks_that_a_subset_does_not_run_get_zero_gradients") {
  VisionMamba model(small(), 1);
  const auto images = load_case("vision_mamba").at("in/images");
  // A part of the patches, and all of them in another order.
  const mx::array chosen({1, 5}, {2}, mx::int32), shuffled({8, 7, 6, 5, 4, 3, 2, 1, 0}, {9}, mx::int32);
  for (const auto& indices : {chosen, shuffled}) {
    const auto loss = [&](const std::vector<mx::array>&) {
      const auto y = model.encode(images, indices);
      return std::vector<mx::array>{mx::sum(mx::sin(y))};
    };
    const auto names = model.trainable_parameters();
    const auto gradients = value_and_grad(model, loss, {}).gradients;
    for (size_t i = 0; i < names.size(); i++) {
      const auto& name = names[i].first;
      const float largest = mx::max(mx::abs(gradients[i])).item<float>();
      INFO(name);
      if (name.find("mamba_blocks.2") != std::string::npos) CHECK(largest == 0);
      if (name.find("blocks.0.mamba_blocks.1.in_proj") != std::string::npos) CHECK(largest > 0);
    }
  }
}

TEST_CASE("volumes_sequences_and_merges_match_the_golden_values_and_gradients") {
  for (const auto& [name, config] : models_of_other_kinds()) {
    INFO(name);
    const auto golden = load_case(name, "vision_mamba_nd");
    for (const auto dtype : {mx::float64, mx::float32}) {
      VisionMamba model(config);
      load_params(model, golden, dtype);
      const auto images = mx::astype(golden.at("in/images"), dtype),
                 other = mx::astype(golden.at("in/other"), dtype);
      CHECK(normalised_error(model.encode(images), golden.at("out/encoded")) < tolerance(dtype));
      // Another size, not a cube: positions are interpolated and directions follow the grid.
      const auto encoded = model.encode(other);
      CHECK(normalised_error(encoded, golden.at("out/other")) < tolerance(dtype));
      const auto map = model.feature_maps(other, {-1})[0];
      CHECK(map.shape(0) * map.shape(1) * map.shape(2) * (map.ndim() > 4 ? map.shape(3) : 1) *
                (map.ndim() > 5 ? map.shape(4) : 1) ==
            encoded.shape(0) * encoded.shape(1));
      CHECK(normalised_error(model.norm(mx::reshape(map, encoded.shape())), encoded) < 1e-5);
      expect_gradients(model, golden, dtype, [&] { return model.logits(images); });
      if (golden.contains("out/tokens")) {
        CHECK(normalised_error(model.embed_patches(images), golden.at("out/tokens")) < tolerance(dtype));
      }
      if (golden.contains("out/compat")) {
        VisionMambaConfig compat = config;
        compat.scan_order = "compat";
        VisionMamba upstream(compat);
        load_params(upstream, golden, dtype);
        CHECK(normalised_error(upstream.encode(images), golden.at("out/compat")) < tolerance(dtype));
      }
      if (golden.contains("out/subset")) {
        const auto got = model.encode(images, mx::array({7, 2, 4}, {3}, mx::int32));
        CHECK(normalised_error(got, golden.at("out/subset")) < tolerance(dtype));
      }
    }
  }
}

TEST_CASE("gradients_reach_the_positions_through_their_interpolation") {
  const auto [name, config] = models_of_other_kinds()[0];
  VisionMamba model(config, 1);
  model.cast(mx::float64);
  const auto other = mx::astype(load_case(name, "vision_mamba_nd").at("in/other"), mx::float64);
  const auto loss = [&](const std::vector<mx::array>&) {
    const auto y = model.encode(other);
    return std::vector<mx::array>{
        mx::sum(y * mx::reshape(mx::sin(mx::arange(24.0 * 6, mx::float64)), {1, 24, 6}))};
  };
  const auto names = model.trainable_parameters();
  const auto result = value_and_grad(model, loss, {});
  for (size_t i = 0; i < names.size(); i++) {
    if (names[i].first != "pos_embed") continue;
    // Against central differences along a direction that is not symmetric.
    const auto start = model.pos_embed,
               way = mx::sin(mx::reshape(mx::arange(1.0 * 27 * 6, mx::float64), {1, 27, 6}));
    const auto at = [&](double step) {
      model.pos_embed = start + way * mx::array(step, mx::float64);
      return loss({})[0].item<double>();
    };
    const double numeric = (at(1e-5) - at(-1e-5)) / 2e-5;
    model.pos_embed = start;
    CHECK(mx::sum(result.gradients[i] * way).item<double>() == doctest::Approx(numeric).epsilon(1e-6));
  }
}

TEST_CASE("subsets_of_another_size_take_its_positions") {
  const auto [name, config] = models_of_other_kinds()[2];
  const VisionMamba model(config, 1);
  const auto images = load_case(name, "vision_mamba_nd").at("in/other");  // 5 x 2 patches
  const auto encoded = model.encode(images, mx::array({9, 3}, {2}, mx::int32));
  CHECK(encoded.shape() == mx::Shape{2, 2, 6});
  CHECK_THROWS_WITH_AS(model.encode(images, mx::array({10, 3}, {2}, mx::int32)),
                       doctest::Contains("[0, 10); got 10"), Error);
}

TEST_CASE("inputs_that_do_not_fit_are_refused_in_words") {
  const VisionMamba model(small());
  const auto images = mx::zeros({2, 12, 12, 2});
  CHECK_THROWS_WITH_AS(model.encode(mx::zeros({2, 12, 12, 3})), doctest::Contains("{B, 12, 12, 2}"), Error);
  CHECK_THROWS_WITH_AS(model.encode(mx::zeros({2, 12, 14, 2})), doctest::Contains("patch_size must divide"),
                       Error);
  CHECK_THROWS_WITH_AS(model.encode(mx::zeros({2, 12, 0, 2})), doctest::Contains("patch_size must divide"), Error);
  auto frames = tiny(4);
  frames.num_temporal_frames = 4;
  frames.temporal_patch_size = 2;
  CHECK_THROWS_WITH_AS(VisionMamba(frames).encode(mx::zeros({1, 5, 8, 8, 8, 2})),
                       doctest::Contains("temporal_patch_size must divide every number of frames"), Error);
  CHECK_THROWS_WITH_AS(model.encode(mx::zeros({2, 12, 12})), doctest::Contains("axis of channels"), Error);
  CHECK_THROWS_WITH_AS(model.encode(mx::zeros({2, 5, 8})), doctest::Contains("patch_indices"), Error);
  const auto at = [](int i) { return mx::array({0, i}, {2}, mx::int32); };
  CHECK_THROWS_WITH_AS(model.encode(images, at(9)), doctest::Contains("[0, 9); got 9"), Error);
  CHECK_THROWS_AS(model.encode(images, at(-1)), Error);
  CHECK_THROWS_AS(model.encode(images, mx::array({0.0f, 1.0f}, {2})), Error);
  CHECK_THROWS_AS(model.encode(images, mx::zeros({3, 2}, mx::int32)), Error);
  CHECK_THROWS_WITH_AS(model.encode(mx::zeros({2, 5, 8}), at(1)), doctest::Contains("the 2 of patch_indices"),
                       Error);
  VisionMambaConfig headless = small();
  headless.num_classes = 0;
  CHECK_THROWS_WITH_AS(VisionMamba(headless).logits(images), doctest::Contains("num_classes"), Error);
  VisionMambaConfig stateless = small();
  stateless.d_state = 0;
  CHECK_THROWS_AS(VisionMamba{stateless}, Error);
}

TEST_CASE("encoders_have_the_parameter_counts_of_the_specification") {
  const VisionMambaConfig defaults;
  CHECK(VisionMamba(defaults).parameter_count() == 23311488);
}

TEST_CASE("volumes_and_sequences_have_the_parameter_counts_of_the_specification") {
  VisionMambaConfig volume;
  volume.input_dim = 3;
  volume.img_size = 64;
  CHECK(VisionMamba(volume).parameter_count() == 36301440);
  VisionMambaConfig sequence;
  sequence.input_dim = 4;
  sequence.img_size = 32;
  sequence.num_temporal_frames = 4;
  CHECK(VisionMamba(sequence).parameter_count() == 47855232);
}

TEST_CASE("volumes_and_sequences_have_the_right_shapes") {
  const VisionMamba volume(tiny(3));
  CHECK(volume.encode(mx::ones({1, 8, 8, 8, 2})).shape() == mx::Shape{1, 8, 8});
  CHECK(volume.blocks[0]->mamba_blocks.size() == 6);
  auto c = tiny(4);
  c.num_temporal_frames = 6;
  c.temporal_patch_size = 2;
  const VisionMamba sequence(c);
  CHECK(sequence.blocks[0]->mamba_blocks.size() == 8);
  CHECK(sequence.input_shape() == std::vector<int64_t>{6, 8, 8, 8, 2});
  CHECK(sequence.logits(mx::ones({2, 6, 8, 8, 8, 2})).shape() == mx::Shape{2, 3});
  // Token (t', 0, 0, 0) is the product of its weights with the frames 2 t' and 2 t'+1, channel j C + c.
  const auto x = mx::reshape(mx::sin(mx::arange(6 * 8 * 8 * 8 * 2, mx::float32)), {1, 6, 8, 8, 8, 2});
  auto patch = mx::slice(x, {0, 2, 0, 0, 0, 0}, {1, 4, 4, 4, 4, 2});  // t' = 1
  patch = mx::reshape(mx::transpose(mx::squeeze(patch, 0), {1, 2, 3, 0, 4}), {1, 4 * 4 * 4 * 4});
  const auto weight = mx::reshape(sequence.patch_embed.proj.weight, {8, 4 * 4 * 4 * 4});
  const auto want = mx::matmul(patch, mx::transpose(weight)) + sequence.patch_embed.proj.bias;
  const auto tokens = sequence.embed_patches(x);
  CHECK(tokens.shape() == mx::Shape{1, 24, 8});
  CHECK(normalised_error(mx::slice(tokens, {0, 8, 0}, {1, 9, 8}), want) < 1e-5);
}

TEST_CASE("a_seed_gives_one_model_and_recipes_differ") {
  const VisionMamba a(small(), 3), b(small(), 3), c(small(), 4);
  CHECK(normalised_error(a.pos_embed, b.pos_embed) == 0);
  CHECK(normalised_error(a.pos_embed, c.pos_embed) > 0.1);
  auto config = small();
  config.init = "s0";
  CHECK(mx::max(mx::abs(VisionMamba(config).patch_embed.proj.bias)).item<float>() == 0);
  CHECK(mx::max(mx::abs(a.patch_embed.proj.bias)).item<float>() > 0);
}

TEST_CASE("configs_round_trip_through_json") {
  VisionMambaConfig c = small();
  c.scan_order = "compat";
  c.scan_mode = "metal_fused";
  const auto text = c.to_json();
  contains(text, "\"model_type\": \"vision_mamba\"");
  contains(text, "\"num_directions\": 4");
  const auto back = VisionMambaConfig::from_json(text);
  CHECK(back.to_json() == text);
  CHECK(back.scan_order == "compat");
  CHECK(VisionMamba(back).config_json() == text);
  CHECK(VisionMambaConfig::from_json("{}").embed_dim == 384);
}

TEST_CASE("configs_that_do_not_fit_are_refused_with_the_key") {
  contains(refused(R"({"d_stat": 8})"), "d_state");
  contains(refused(R"({"depth": "six"})"), "depth");
  contains(refused(R"({"depth": 2.5})"), "depth");
  contains(refused(R"({"d_state": 0})"), "d_state must be at least 1; got 0");
  contains(refused(R"({"d_state": -4})"), "d_state must be at least 1; got -4");
  contains(refused(R"({"img_size": 30})"), "patch_size must divide img_size; got 16 and 30");
  contains(refused(R"({"num_directions": 6})"), "num_directions must be 1, 2 or 4");
  contains(refused(R"({"scan_order": "row"})"), "scan_order must be");
  contains(refused(R"({"scan_mode": "metal_fusd"})"), "metal_fused");
  contains(refused(R"({"merge": "means"})"), "Try: mean");
  contains(refused(R"({"init": "xavier"})"), "init must be");
  contains(refused(R"({"input_dim": 5})"), "input_dim must be at most 4");
  contains(refused(R"({"input_dim": 4, "num_temporal_frames": 3, "temporal_patch_size": 2})"),
           "temporal_patch_size must divide");
  contains(refused(R"({"model_type": "vision_transformer"})"), "model_type");
  contains(refused("not json"), "config.json");
}

TEST_CASE("multiply_adds_are_those_of_the_layers") {
  // By hand for one direction of one layer of the small model: 9 tokens, width 8, inner 16, rank 1, state 4.
  const int64_t scan = 9 * (3 * 16 * 4 + 16);
  const int64_t block = 9 * (8 * 32 + 4 * 16 + 16 * (1 + 8) + 1 * 16 + 16 * 8) + scan;
  const auto cost = VisionMamba(small()).cost();
  CHECK(cost.scan_macs == 2 * 4 * scan);
  CHECK(cost.macs == 9 * 32 * 8 + 2 * 4 * block + 8 * 3);
  CHECK(cost.exps == 2 * 4 * 9 * (16 * 4 + 4 * 16));
  CHECK(cost.training_bytes(4) > 2 * cost.inference_bytes(4));
}

TEST_CASE("vision_mamba_counts_the_work_of_its_graph") {
  VisionMambaConfig sum = small(), vmamba = small();
  vmamba.merge = "vmamba";
  for (const auto& config : {sum, vmamba}) {
    const VisionMamba model(config, 1);
    const auto counted = count_work({model.logits(mx::zeros({1, 12, 12, 2}))});
    CHECK(counted.macs == model.cost().macs);
    CHECK(counted.scan_macs == model.cost().scan_macs);
    CHECK(counted.exps == model.cost().exps);
  }
}

TEST_CASE("vision_mamba_is_a_backbone_with_a_stage_per_block") {
  const VisionMamba model(small(), 1);
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
