#include "aspis/models/backbone.h"

#include <fmt/format.h>
#include <mlx/ops.h>

#include <cmath>

#include "aspis/base/error.h"
#include "aspis/models/registry.h"
#include "aspis/nn/drop_path.h"
#include "aspis/nn/test_support.h"

namespace aspis {
namespace {

/// Every family, tiny; VisionMamba and its twin need whole patches.
const std::vector<std::string>& families() {
  static const std::vector<std::string> list{
      R"({"model_type": "vision_mamba", "img_size": 32, "patch_size": 16, "embed_dim": 8, "depth": 2, "d_state": 2)",
      R"({"model_type": "vision_transformer", "img_size": 32, "patch_size": 16, "embed_dim": 8, "depth": 2, "num_heads": 2)",
      R"({"model_type": "vit", "img_size": 32, "patch_size": 16, "embed_dim": 8, "depth": 2, "num_heads": 2)",
      R"({"model_type": "vim", "img_size": 32, "embed_dim": 8, "depth": 2, "d_state": 2)",
      R"({"model_type": "mambavision", "dim": 4, "in_dim": 4, "depths": [1, 1, 2, 2], "num_heads": [1, 1, 2, 4], "d_state": 2)",
      R"({"model_type": "vmamba", "dim": 4, "depths": [1, 1, 1, 1], "d_state": 1, "gate": false, "mlp_ratio": 2)",
      R"({"model_type": "edifice_mambavision", "dim": 4, "depths": [1, 1, 2, 2], "num_heads": [1, 1, 2, 4], "d_state": 2)",
      R"({"model_type": "edu_hybrid", "version": 2, "img_size": 32, "embed_dim": 8, "depth": 2, "num_heads": 2)",
      R"({"model_type": "convnext", "depths": [1, 1, 1, 1], "dims": [4, 4, 8, 8])",
      R"({"model_type": "resnet", "stem_width": 4, "depths": [1, 1, 1, 1], "widths": [2, 2, 4, 4])"};
  return list;
}

std::unique_ptr<ImageModel> make(const std::string& family, int64_t channels = 2, const std::string& more = "") {
  return make_model_from_config(
      fmt::format(R"({}, "num_classes": 5, "in_channels": {}{}}})", family, channels, more), 7, "test");
}

mx::array pictures(int batch, int height, int width, int channels) {
  const mx::Shape shape{batch, height, width, channels};
  return mx::sin(mx::reshape(mx::arange(static_cast<double>(batch) * height * width * channels), shape) *
                 mx::array(0.7f));
}

bool finite(const mx::array& a) {
  for (const double v : golden::values_of(a)) {
    if (!std::isfinite(v)) return false;
  }
  return true;
}

}  // namespace

TEST_CASE("every_family_takes_1_to_13_channels_and_their_weights_can_be_adapted") {
  for (const auto& family : families()) {
    CAPTURE(family);
    const auto three = make(family, 3);
    three->eval();
    const auto rgb = pictures(1, 32, 32, 3);
    const auto want = three->logits(rgb);
    for (const int channels : {1, 2, 3, 4, 7, 13}) {
      CAPTURE(channels);
      const auto model = rebuild_model(*three, {{"in_channels", std::to_string(channels)}});
      model->eval();
      CHECK(model->input_shape().back() == channels);
      const auto logits = model->logits(pictures(1, 32, 32, channels));
      CHECK((logits.shape() == mx::Shape{1, 5} && finite(logits)));
      // Grey pictures say the same: one channel instead of three equal ones, or six.
      if (channels == 1) {
        const auto grey = pictures(1, 32, 32, 1);
        CHECK(golden::normalised_error(model->logits(grey), three->logits(mx::repeat(grey, 3, 3))) < 1e-4);
      }
    }
    const auto six = rebuild_model(*three, {{"in_channels", "6"}});
    six->eval();
    CHECK(golden::normalised_error(six->logits(mx::concatenate({rgb, rgb}, 3)), want) < 1e-4);
  }
}

TEST_CASE("every_family_takes_32_to_512_pixels_and_a_sample_is_the_same_alone_and_in_a_batch") {
  for (const auto& family : families()) {
    CAPTURE(family);
    const auto model = make(family);
    model->eval();
    for (const auto& [height, width] : {std::pair{32, 32}, {64, 96}, {32, 512}, {512, 32}, {224, 96}}) {
      CAPTURE(height);
      CAPTURE(width);
      const auto images = pictures(3, height, width, 2);
      const auto all = model->logits(images);
      CHECK((all.shape() == mx::Shape{3, 5} && finite(all)));
      const auto one = model->logits(mx::slice(images, {1, 0, 0, 0}, {2, height, width, 2}));
      CHECK(golden::values_of(one) == golden::values_of(mx::slice(all, {1, 0}, {2, 5})));
      const auto stages = model->stages();
      const auto maps = model->feature_maps(images, {});
      REQUIRE(maps.size() == stages.size());
      for (size_t i = 0; i < maps.size(); i++) {
        const auto r = static_cast<int>(stages[i].reduction);
        CHECK(maps[i].shape() == mx::Shape{3, height / r, width / r, static_cast<int>(stages[i].channels)});
      }
      const auto last = model->feature_maps(images, {-1, 0});
      CHECK(golden::values_of(last[0]) == golden::values_of(maps.back()));
      CHECK(golden::values_of(last[1]) == golden::values_of(maps.front()));
    }
  }
}

TEST_CASE("gradients_are_the_same_with_and_without_checkpoints_in_every_family") {
  for (const auto& family : families()) {
    CAPTURE(family);
    const bool drops = family.find("vision_") == std::string::npos &&
                       family.find("edifice") == std::string::npos && family.find("edu") == std::string::npos &&
                       family.find("resnet") == std::string::npos;
    const auto images = pictures(3, 32, 48, 2);
    const auto run = [&](bool on) {
      const auto model = make(family, 2, drops ? R"(, "drop_path_rate": 0.5)" : "");
      model->checkpoint_gradients(on);
      const RandomStep step(3, 4);
      auto result = value_and_grad(*model,
                                   [&](const std::vector<mx::array>& in) {
                                     return std::vector<mx::array>{mx::mean(mx::square(model->logits(in[0])))};
                                   },
                                   {images});
      result.gradients.push_back(result.values[0]);
      for (const auto& [name, buffer] : model->buffers()) result.gradients.push_back(buffer);
      mx::eval(result.gradients);
      return result.gradients;
    };
    const auto plain = run(false), again = run(true);
    REQUIRE(plain.size() == again.size());
    size_t different = 0;
    for (size_t i = 0; i < plain.size(); i++)
      different += golden::values_of(plain[i]) != golden::values_of(again[i]);
    CHECK(different == 0);
  }
}

TEST_CASE("classifiers_are_removed_and_replaced_and_image_sizes_changed") {
  for (const auto& family : families()) {
    CAPTURE(family);
    const auto model = make(family);
    model->eval();
    const auto images = pictures(1, 32, 32, 2);
    const auto bare = rebuild_model(*model, {{"num_classes", "0"}});
    bare->eval();
    CHECK(bare->classifier() == nullptr);
    CHECK(golden::values_of(bare->pool(bare->forward_features(images))) ==
          golden::values_of(model->pool(model->forward_features(images))));
    CHECK_THROWS_WITH_AS(bare->logits(images), doctest::Contains("classification head"), Error);
    const auto other = rebuild_model(*model, {{"num_classes", "9"}}, 3);
    other->eval();
    CHECK(other->logits(images).shape() == mx::Shape{1, 9});
    CHECK(golden::values_of(other->forward_features(images)) ==
          golden::values_of(model->forward_features(images)));
    const bool edifice = family.find("edifice") != std::string::npos;
    const auto large = rebuild_model(*model, {{edifice ? "image_size" : "img_size", "64"}});
    large->eval();
    // At its new size the table of positions is the one that the old model interpolates.
    const auto wide = pictures(1, 64, 64, 2);
    CHECK(golden::normalised_error(large->logits(wide), model->logits(wide)) < 1e-5);
  }
  const auto vit = make(families()[2]);
  CHECK_THROWS_WITH_AS(rebuild_model(*vit, {{"embed_dim", "16"}}), doctest::Contains("no values for"), Error);
}

TEST_CASE("every_vision_mamba_takes_every_mixer_in_every_number_of_directions") {
  std::vector<std::pair<std::string, std::vector<int>>> forms;
  for (const auto& family : families()) {
    const size_t at = family.find(", \"d_state\"");
    if (at == std::string::npos) continue;
    std::string text = family;  // without the family's own state size
    text.erase(at, std::min(family.find(',', at + 1), family.size()) - at);
    forms.emplace_back(text, std::vector<int>{1, 2, 4});
  }
  const std::string volumes =
      R"({"model_type": "vision_mamba", "img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 1)";
  forms.emplace_back(volumes + R"(, "input_dim": 3)", std::vector<int>{1, 2, 6});
  forms.emplace_back(volumes + R"(, "input_dim": 4, "num_temporal_frames": 2)", std::vector<int>{1, 2, 8});
  REQUIRE(forms.size() == 7);
  for (const auto& [family, counts] : forms) {
    CAPTURE(family);
    for (const char* mixer : {"mamba1", "mamba2", "mamba3"}) {
      CAPTURE(std::string(mixer));
      for (const int count : counts) {
        CAPTURE(count);
        const auto model =
            make(family, 2, fmt::format(R"(, "d_state": 4, "mixer": "{}", "num_directions": {})", mixer, count));
        CHECK(make_model_from_config(model->config_json())->parameter_count() == model->parameter_count());
        mx::Shape shape{2};
        int size = 2;
        for (const int64_t n : model->input_shape()) {
          shape.push_back(static_cast<int>(n > 32 ? 48 : n));
          size *= shape.back();
        }
        const auto images = mx::sin(mx::reshape(mx::arange(static_cast<double>(size)), shape));
        const auto result =
            value_and_grad(*model,
                           [&](const std::vector<mx::array>& in) {
                             return std::vector<mx::array>{mx::mean(mx::square(model->logits(in[0])))};
                           },
                           {images});
        // Every direction takes part: each of its blocks has gradients.
        const auto names = model->trainable_parameters();
        int mixers = 0;
        for (size_t i = 0; i < names.size(); i++) {
          if (!names[i].first.ends_with("out_proj.weight")) continue;
          CAPTURE(names[i].first);
          mixers++;
          CHECK(finite(result.gradients[i]));
          CHECK(mx::max(mx::abs(result.gradients[i])).item<float>() > 0);
        }
        CHECK(mixers >= count);
        CHECK(model->cost().macs > 0);
      }
    }
  }
  CHECK_THROWS_WITH_AS(make(R"({"model_type": "vim")", 2, R"(, "num_directions": 3)"),
                       doctest::Contains("num_directions"), Error);
  CHECK_THROWS_WITH_AS(make(R"({"model_type": "vmamba")", 2, R"(, "mixer": "mamba4")"),
                       doctest::Contains("mamba3"), Error);
  CHECK_THROWS_WITH_AS(make(R"({"model_type": "mambavision")", 2, R"(, "mixer": "mamba3", "d_state": 2)"),
                       doctest::Contains("at least 4"), Error);
  CHECK_THROWS_WITH_AS(make(R"({"model_type": "vision_mamba")", 2, R"(, "mixer": "mamba2", "merge": "vmamba")"),
                       doctest::Contains("merge"), Error);
}

TEST_CASE("input_channels_are_adapted_as_timm_does") {
  const auto w = mx::reshape(mx::arange(1.0, 7.0), {2, 1, 1, 3});
  CHECK(golden::values_of(adapt_input_channels(w, 1)) == std::vector<double>{6, 15});
  const auto four = golden::values_of(adapt_input_channels(w, 4));
  const std::vector<double> want{0.75, 1.5, 2.25, 0.75, 3, 3.75, 4.5, 3};
  for (size_t i = 0; i < want.size(); i++) CHECK(four[i] == doctest::Approx(want[i]));
  CHECK(golden::values_of(adapt_input_channels(w, 2))[0] == doctest::Approx(1.5));
}

}  // namespace aspis
