#include "aspis/models/registry.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>

#include <set>

#include "aspis/models/vision_mamba.h"

namespace aspis {

TEST_CASE("every_model_of_the_table_has_a_valid_config_and_words") {
  std::set<std::string> names;
  for (const auto& entry : model_table()) {
    INFO(entry.name);
    CHECK(names.insert(entry.name).second);
    CHECK_FALSE(entry.description.empty());
    const auto config = resolve_config(entry.name);
    CHECK(config.find("\"model_type\": \"" + entry.model_type + "\"") != std::string::npos);
  }
  for (const char* name : {"vision_mamba_fmnist", "vision_mamba_small", "vit_fmnist", "vit_small"}) {
    CHECK(names.count(name) == 1);
  }
}

TEST_CASE("the_models_for_small_images_classify_them") {
  for (const char* name : {"vision_mamba_fmnist", "vit_fmnist"}) {
    const auto model = make_model(name);
    CHECK(model->input_shape() == std::vector<int64_t>{28, 28, 1});
    CHECK(model->logits(mx::ones({2, 28, 28, 1})).shape() == mx::Shape{2, 10});
  }
}

TEST_CASE("overrides_change_the_config") {
  const auto model =
      make_model("vision_mamba_fmnist", {{"depth", "1"}, {"scan_order", "compat"}, {"d_state", "3"}});
  const auto& config = dynamic_cast<VisionMamba&>(*model).config();
  CHECK(config.depth == 1);
  CHECK(config.scan_order == "compat");
  CHECK(config.img_size == 28);
  CHECK(model->config_json() ==
        resolve_config("vision_mamba_fmnist", {{"depth", "1"}, {"scan_order", "compat"}, {"d_state", "3"}}));
}

TEST_CASE("overrides_that_do_not_fit_are_usage_errors_with_the_key") {
  const auto refused = [](const Overrides& overrides) {
    try {
      resolve_config("vision_mamba_fmnist", overrides);
    } catch (const Error& e) {
      CHECK(e.kind() == ErrorKind::kUsage);
      return std::string(e.what());
    }
    return std::string("taken");
  };
  CHECK(refused({{"dept", "1"}}).find("depth") != std::string::npos);
  CHECK(refused({{"depth", "many"}}).find("depth") != std::string::npos);
  CHECK(refused({{"d_state", "0"}}).find("d_state must be at least 1; got 0") != std::string::npos);
  CHECK(refused({{"patch_size", "5"}}).find("patch_size must divide img_size; got 5 and 28") != std::string::npos);
  CHECK(refused({{"model_type", "vision_transformer"}}).find("model_type") != std::string::npos);
  CHECK(refused({{"depth", "\xff"}}).find("depth") != std::string::npos);
}

TEST_CASE("unknown_models_get_the_nearest_name") {
  CHECK_THROWS_WITH_AS(make_model("vision_mamba_fmnits"), doctest::Contains("Try: vision_mamba_fmnist"), Error);
  CHECK_THROWS_WITH_AS(make_model("zebra"), doctest::Contains("one of vision_mamba_fmnist"), Error);
}

TEST_CASE("list_filters_by_glob") {
  CHECK(list_models().size() == model_table().size());
  CHECK(list_models("vim_tiny_*").size() == 2);
  CHECK(list_models("nothing*").empty());
}

TEST_CASE("model_type_picks_the_family") {
  const auto vit = make_model("vit_fmnist", {{"depth", "1"}}, 5);
  const auto again = make_model_from_config(vit->config_json(), 5);
  CHECK(again->model_type() == "vision_transformer");
  CHECK(again->parameter_count() == vit->parameter_count());
  again->load(vit->state());
  CHECK_THROWS_WITH_AS(make_model_from_config(R"({"model_type": "vision_mambo"})"),
                       doctest::Contains("Try: vision_mamba"), Error);
  CHECK_THROWS_AS(make_model_from_config("{}"), Error);
  CHECK_THROWS_AS(make_model_from_config("[]"), Error);
}

TEST_CASE("weights_of_another_model_are_refused") {
  const auto mamba = make_model("vision_mamba_fmnist", {{"depth", "1"}});
  const auto vit = make_model("vit_fmnist", {{"depth", "1"}});
  CHECK_THROWS_WITH_AS(vit->load(mamba->state()), doctest::Contains("missing"), Error);
}

}  // namespace aspis
