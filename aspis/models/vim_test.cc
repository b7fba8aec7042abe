#include "aspis/models/vim.h"

#include <mlx/ops.h>

#include "aspis/base/error.h"
#include "aspis/models/registry.h"
#include "aspis/nn/position_table.h"
#include "aspis/nn/test_support.h"

namespace aspis {
namespace {

using golden::expect_gradients;
using golden::load_case;
using golden::load_params;
using golden::normalised_error;
using golden::tolerance;

VimConfig small() {
  VimConfig c;
  c.img_size = 12;
  c.patch_size = c.stride = 4;
  c.in_channels = 2;
  c.embed_dim = 8;
  c.depth = 2;
  c.d_state = 3;
  c.num_classes = 3;
  return c;
}

VimConfig overlap() {
  VimConfig c = small();
  c.img_size = 11;
  c.stride = 3;
  c.depth = 1;
  c.d_state = 2;
  c.divide_out = false;
  return c;
}

}  // namespace

TEST_CASE("vim_matches_the_golden_values_and_gradients") {
  for (const auto& [name, config] : {std::pair{"square", small()}, std::pair{"overlap", overlap()}}) {
    INFO(name);
    const auto golden = load_case(name, "vim");
    for (const auto dtype : {mx::float64, mx::float32}) {
      Vim model(config);
      load_params(model, golden, dtype);
      const auto images = mx::astype(golden.at("in/images"), dtype);
      CHECK(normalised_error(model.forward_features(images), golden.at("out/features")) < tolerance(dtype));
      CHECK(normalised_error(model.logits(images), golden.at("out/logits")) < tolerance(dtype));
      const auto maps = model.feature_maps(images, {});
      REQUIRE(maps.size() == static_cast<size_t>(config.depth));
      for (size_t i = 0; i < maps.size(); i++) {
        CHECK(maps[i].shape() == golden.at("out/map" + std::to_string(i)).shape());
        CHECK(normalised_error(maps[i], golden.at("out/map" + std::to_string(i))) < tolerance(dtype));
      }
      expect_gradients(model, golden, dtype, [&] { return model.logits(images); });
    }
  }
}

TEST_CASE("vim_has_the_published_parameter_counts") {
  const BlankWeights blank;
  CHECK(make_model("vim_tiny_patch16_224")->parameter_count() == 7148008);
  CHECK(make_model("vim_small_patch16_224")->parameter_count() == 25796584);
  CHECK(make_model("vim_base_patch16_224")->parameter_count() == 97598440);
}

TEST_CASE("vim_drops_whole_samples_in_training_only_and_by_step") {
  VimConfig c = small();
  c.drop_path_rate = 0.5;
  Vim model(c, 3);
  const auto images = mx::reshape(mx::arange(8.0 * 12 * 12 * 2), {8, 12, 12, 2}) / mx::array(2304.f);
  const auto run = [&](int64_t step) {
    const RandomStep scope(1, step);
    return golden::values_of(model.logits(images));
  };
  CHECK(run(0) == run(0));
  CHECK(run(0) != run(1));
  model.eval();
  CHECK(run(0) == run(1));
}

TEST_CASE("vim_keeps_the_class_token_in_the_middle_of_interpolated_positions") {
  const auto table = mx::sin(mx::reshape(mx::arange(20.0), {1, 10, 2}));
  const auto rows = [](const mx::array& a, int from, int to) { return mx::slice(a, {0, from, 0}, {1, to, 2}); };
  const auto patches = mx::concatenate({rows(table, 0, 4), rows(table, 5, 10)}, 1);
  const auto want = resize_positions(patches, {3, 3}, {5, 3}), got = resize_square_positions(table, 5, 3, -2);
  REQUIRE(got.shape() == mx::Shape{1, 16, 2});
  CHECK(golden::values_of(rows(got, 7, 8)) == golden::values_of(rows(table, 4, 5)));
  CHECK(golden::values_of(mx::concatenate({rows(got, 0, 7), rows(got, 8, 16)}, 1)) == golden::values_of(want));
  CHECK(golden::values_of(resize_square_positions(table, 3, 3, -2)) == golden::values_of(table));
  CHECK_THROWS_WITH_AS(resize_square_positions(table, 3, 3), doctest::Contains("square"), Error);
  const Vim model(small(), 1);
  CHECK(model.feature_maps(mx::zeros({2, 21, 12, 2}), {})[1].shape() == mx::Shape{2, 5, 3, 8});
}

TEST_CASE("vim_refuses_what_does_not_fit") {
  const Vim model(small(), 1);
  CHECK_THROWS_WITH_AS(model.logits(mx::zeros({1, 3, 12, 2})), doctest::Contains("at least 4"), Error);
  CHECK_THROWS_WITH_AS(model.logits(mx::zeros({1, 12, 12, 3})), doctest::Contains("{B, H, W, 2}"), Error);
  CHECK_THROWS_WITH_AS(VimConfig::from_json(R"({"stride": 0})"), doctest::Contains("stride must be at least 1"),
                       Error);
  CHECK_THROWS_WITH_AS(VimConfig::from_json(R"({"drop_path_rate": 1.5})"), doctest::Contains("drop_path_rate"),
                       Error);
  CHECK(VimConfig::from_json(small().to_json()).to_json() == small().to_json());
}

}  // namespace aspis
