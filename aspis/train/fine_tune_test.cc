#include "aspis/train/fine_tune.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <map>

#include "aspis/base/error.h"
#include "aspis/models/registry.h"
#include "aspis/nn/init.h"
#include "aspis/train/optimizer.h"

namespace aspis::train {
namespace {

std::unique_ptr<ImageModel> small() {
  return make_model("vision_mamba_fmnist", {{"depth", "3"}, {"embed_dim", "8"}}, 1);
}

std::map<std::string, int64_t> depths_by_name(ImageModel& model) {
  std::map<std::string, int64_t> all;
  const auto depths = stage_depths(model);
  const auto parameters = model.parameter_refs();
  for (size_t i = 0; i < depths.size(); i++) all[parameters[i].name] = depths[i];
  return all;
}

std::vector<float> values(const mx::array& a) {
  mx::array dense = mx::contiguous(a);
  dense.eval();
  return {dense.data<float>(), dense.data<float>() + dense.size()};
}

}  // namespace

TEST_CASE("parameters lie before, in and behind the stages, in every family") {
  const auto model = small();
  const auto depths = depths_by_name(*model);
  CHECK(depths.at("patch_embed.proj.weight") == 0);
  CHECK(depths.at("pos_embed") == 0);
  CHECK(depths.at("blocks.0.norm.weight") == 1);
  CHECK(depths.at("blocks.2.mamba_blocks.1.A_log") == 3);
  CHECK(depths.at("norm.weight") == 4);
  CHECK(depths.at("head.bias") == 4);
  std::map<std::string, bool> seen;
  for (const auto& entry : model_table()) {
    if (seen[entry.model_type]) continue;
    seen[entry.model_type] = true;
    INFO(entry.name);
    const BlankWeights blank;
    const auto any = make_model(entry.name, {{"num_classes", "7"}});
    const auto list = stage_depths(*any);
    const auto parameters = any->parameter_refs();
    const auto deepest = static_cast<int64_t>(any->stages().size()) + 1;
    CHECK(list.front() <= 1);  // ResNet's first convolution is a stage
    CHECK(std::is_sorted(list.begin(), list.end()));
    for (int64_t d = 1; d <= deepest; d++) CHECK(std::count(list.begin(), list.end(), d) > 0);
    for (size_t i = 0; i < list.size(); i++) {
      const bool classifier = parameters[i].value->ndim() == 2 && parameters[i].value->shape(0) == 7;
      if (classifier) CHECK(list[i] == deepest);
    }
  }
}

TEST_CASE("stages are frozen by number, by name and all together") {
  const auto trained = [](std::string_view what) {
    const auto model = small();
    CHECK(freeze_part(*model, what) > 0);
    std::map<std::string, int> parts;
    for (const auto& [name, value] : model->trainable_parameters()) parts[name.substr(0, name.find('.', 7))]++;
    return parts;
  };
  CHECK(trained("0").count("pos_embed") == 0);
  CHECK(trained("0").count("blocks.0") == 1);
  CHECK(trained("2").count("blocks.1") == 0);
  CHECK(trained("2").count("blocks.2") == 1);
  const auto rest = trained("all");
  CHECK(rest.count("blocks.2") == 0);
  CHECK(rest.size() == 4);  // norm and head, weight and bias
  CHECK(trained("blocks.1,pos_embed").count("blocks.1") == 0);
  CHECK(trained("blocks.1,pos_embed").count("blocks.0") == 1);
  CHECK(trained("*A_log").count("blocks.0") == 1);
  const auto model = small();
  CHECK_THROWS_WITH_AS(freeze_part(*model, "4"), doctest::Contains("the model has 3 stages; got 4"), Error);
  CHECK_THROWS_AS(freeze_part(*model, "blocks.9"), Error);
  CHECK_THROWS_AS(freeze_part(*model, ","), Error);
}

TEST_CASE("learning rates fall from the classifier to the patches") {
  const auto model = small();
  freeze_part(*model, "0");
  const auto names = model->trainable_parameters();
  const auto shares = learning_rate_shares(*model, 0.5);
  REQUIRE(shares.size() == names.size());
  for (size_t i = 0; i < names.size(); i++) {
    INFO(names[i].first);
    if (names[i].first == "head.weight") CHECK(shares[i] == 1);
    if (names[i].first.starts_with("blocks.2.")) CHECK(shares[i] == 0.5);
    if (names[i].first.starts_with("blocks.0.")) CHECK(shares[i] == 0.125);
  }
  CHECK_THROWS_AS(learning_rate_shares(*model, 0), Error);
  CHECK_THROWS_AS(learning_rate_shares(*model, 1.5), Error);
}

TEST_CASE("an update moves every parameter by its share of the learning rate") {
  const auto whole = small(), shared = small();
  Optimizer plain(*whole, {}), decayed(*shared, {}, learning_rate_shares(*shared, 0.5));
  const auto before = whole->trainable_parameters();
  std::vector<mx::array> gradients;
  for (const auto& [name, value] : before) gradients.push_back(mx::ones_like(value));
  for (int step = 0; step < 2; step++) {
    for (Optimizer* optimizer : {&plain, &decayed}) {
      const mx::array norm = optimizer->update(gradients, mx::array(1.0f), 0.01);
      auto pending = optimizer->pending();
      pending.push_back(norm);
      mx::eval(pending);
      optimizer->confirm(true);
    }
  }
  const auto a = whole->trainable_parameters(), b = shared->trainable_parameters();
  const auto shares = learning_rate_shares(*shared, 0.5);
  for (size_t i = 0; i < a.size(); i++) {
    INFO(a[i].first);
    const auto start = values(before[i].second), full = values(a[i].second), part = values(b[i].second);
    for (size_t k = 0; k < start.size(); k += 7) {
      // Weight decay acts on what is there already, hence the tolerance.
      CHECK(part[k] - start[k] == doctest::Approx(shares[i] * (full[k] - start[k])).epsilon(2e-3));
    }
  }
}

}  // namespace aspis::train
