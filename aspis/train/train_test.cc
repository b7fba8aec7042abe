#include <doctest/doctest.h>
#include <mlx/memory.h>

#include <cmath>
#include <limits>

#include "aspis/base/error.h"
#include "aspis/models/registry.h"
#include "aspis/train/classifier.h"
#include "aspis/train/options.h"
#include "aspis/train/schedule.h"
#include "aspis/train/trainer.h"

using namespace aspis;
using namespace aspis::train;

TEST_CASE("the schedule rises linearly, peaks after the warm-up and ends at its floor") {
  const CosineSchedule s{1.0, 0.1, 10, 110};
  CHECK(s(0) == doctest::Approx(0.1));
  CHECK(s(9) == doctest::Approx(1.0));
  CHECK(s(10) == doctest::Approx(1.0));
  CHECK(s(109) == doctest::Approx(0.1));
  CHECK(s(1000) == doctest::Approx(0.1));
  for (int64_t i = 11; i < 110; i++) CHECK(s(i) < s(i - 1));
  const CosineSchedule no_warmup{2.0, 0, 0, 5};
  CHECK(no_warmup(0) == doctest::Approx(2.0));
  CHECK(CosineSchedule{2.0, 0, 0, 1}(0) == doctest::Approx(2.0));
}

TEST_CASE("options out of range are refused with the flag and the value") {
  const auto message = [](auto change) {
    TrainOptions o;
    change(o);
    try {
      check_options(o);
    } catch (const Error& e) {
      CHECK(e.kind() == ErrorKind::kUsage);
      return std::string(e.what());
    }
    return std::string("accepted");
  };
  CHECK(message([](TrainOptions&) {}) == "accepted");
  CHECK(message([](TrainOptions& o) { o.lr = std::nan(""); }) == "[--lr] a positive number is needed; got nan");
  CHECK(message([](TrainOptions& o) { o.lr = 0; }) == "[--lr] a positive number is needed; got 0");
  CHECK(message([](TrainOptions& o) { o.batch = 0; }).find("[--batch]") == 0);
  CHECK(message([](TrainOptions& o) { o.epochs = 0; }).find("[--epochs]") == 0);
  CHECK(message([](TrainOptions& o) { o.epochs = 0, o.steps = 3; }) == "accepted");
  CHECK(message([](TrainOptions& o) { o.erase = 1.5; }).find("[--erase]") == 0);
  CHECK(message([](TrainOptions& o) { o.label_smoothing = 1; }).find("[--label-smoothing]") == 0);
  CHECK(message([](TrainOptions& o) { o.dtype = "half"; }) ==
        "[--dtype] it must be float32 or bfloat16 (f32, bf16); got 'half'");
  CHECK(message([](TrainOptions& o) { o.clip = -1; }).find("[--clip]") == 0);
  CHECK(message([](TrainOptions& o) { o.val_fraction = std::nan(""); }).find("[--val-fraction]") == 0);
}

TEST_CASE("preprocessing survives its file and a damaged file is refused") {
  const Preprocessing p{28, 28, 1, {0.5f}, {0.25f}, {"a", "b \"c\""}, "shapes"};
  const Preprocessing q = Preprocessing::from_json(p.to_json(), "preprocessor_config.json");
  CHECK(q.height == 28);
  CHECK(q.mean == p.mean);
  CHECK(q.std == p.std);
  CHECK(q.classes == p.classes);
  CHECK_THROWS_AS(Preprocessing::from_json("{\"height\": 28}", "x.json"), Error);
  CHECK_THROWS_AS(Preprocessing::from_json("{", "x.json"), Error);
}

TEST_CASE("a memory plan that does not fit is refused with its numbers") {
  MemoryPlan plan;
  plan.activations = 1e18;
  try {
    require_memory(plan, 64);
    FAIL("accepted");
  } catch (const Error& e) {
    CHECK(e.kind() == ErrorKind::kDevice);
    CHECK(std::string(e.what()).find("batch 64") != std::string::npos);
  }
  const auto model = make_model("vision_mamba_fmnist");
  const MemoryPlan small = plan_memory(*model, 800, 1000), large = plan_memory(*model, 80000, 1000);
  CHECK(small.activations > 0);
  CHECK(large.activations == doctest::Approx(100 * small.activations));
}

TEST_CASE("evaluation counts what the confusion matrix shows") {
  const auto model = make_model("vision_mamba_fmnist", {{"depth", "1"}, {"embed_dim", "16"}, {"img_size", "16"}, {"in_channels", "3"}});
  data::DatasetOptions options;
  options.image_size = 16;
  const auto set = data::open_dataset("shapes", data::Split::kTest, options);
  data::LoaderOptions lo;
  lo.training = false;
  lo.batch_size = 50;
  data::Loader loader(set, data::Transform({}, *set), lo);
  const Evaluation e = evaluate(*model, loader, 3);
  CHECK(e.samples == 150);
  int64_t total = 0, diagonal = 0;
  for (size_t i = 0; i < e.confusion.size(); i++) {
    for (size_t j = 0; j < e.confusion.size(); j++) {
      total += e.confusion[i][j];
      if (i == j) diagonal += e.confusion[i][j];
    }
  }
  CHECK(total == 150);
  CHECK(e.accuracy == doctest::Approx(static_cast<double>(diagonal) / 150));
  CHECK(e.predictions.size() == 150);
  // Ten classes and an untrained model: about ln 10.
  CHECK(e.loss == doctest::Approx(std::log(10.0)).epsilon(0.5));
}

TEST_CASE("the memory planned for a step is near what the engine used at its peak") {
  for (const char* model : {"vision_mamba_fmnist", "vit_fmnist"}) {
    for (const int64_t batch : {32, 96}) {
      CAPTURE(model);
      CAPTURE(batch);
      TrainOptions o;
      o.model = model;
      o.data = "shapes";
      o.batch = batch;
      o.dry_run = true;
      mlx::core::clear_cache();
      mlx::core::reset_peak_memory();
      const auto before = static_cast<double>(mlx::core::get_active_memory());
      train::train(o, {});
      const double used = static_cast<double>(mlx::core::get_peak_memory()) - before;
      const auto plan = plan_memory(*make_model(model), batch, 0);
      const double planned = plan.parameters + plan.activations;

      MESSAGE("used over planned: ", used / planned);
      CHECK(used < 1.2 * planned);
      CHECK(used > 0.6 * planned);
    }
  }
}
