#include "aspis/models/edu_hybrid.h"

#include <mlx/ops.h>

#include "aspis/base/error.h"
#include "aspis/models/golden_model.h"
#include "aspis/models/registry.h"

namespace aspis {
namespace {

EduHybridConfig small(int64_t version) {
  EduHybridConfig c;
  c.version = version;
  c.img_size = 32;
  c.patch_size = 8;
  c.in_channels = 2;
  c.embed_dim = 12;
  c.depth = 3 + version;
  c.num_heads = 3;
  c.state_size = 5;
  c.num_classes = 3;
  return c;
}

}  // namespace

TEST_CASE("edu_hybrid_matches_the_golden_values_and_gradients") {
  golden::expect_golden_model<EduHybrid>(small(1), "edu_v1", "hybrids");
  golden::expect_golden_model<EduHybrid>(small(2), "edu_v2", "hybrids");
}

TEST_CASE("edu_hybrid_has_the_recorded_parameter_counts") {
  const BlankWeights blank;
  CHECK(make_model("edu_v1_tiny")->parameter_count() == 1979002);
  CHECK(make_model("edu_v1_small")->parameter_count() == 9870794);
  CHECK(make_model("edu_v2_tiny")->parameter_count() == 2112586);
  CHECK(make_model("edu_v2_small")->parameter_count() == 10521994);
  CHECK(make_model("edu_v1_tiny")->cost().macs > 300e6);
}

TEST_CASE("edu_hybrid_drops_values_in_training_only_and_the_mean_stays") {
  EduHybridConfig c = small(2);
  c.dropout = 0.3;
  EduHybrid model(c, 3);
  const auto images = mx::sin(mx::reshape(mx::arange(2.0 * 32 * 32 * 2), {2, 32, 32, 2}));
  const auto run = [&](int64_t step) {
    const RandomStep scope(1, step);
    return golden::values_of(model.logits(images));
  };
  CHECK(run(0) == run(0));
  CHECK(run(0) != run(1));
  model.eval();
  CHECK(run(0) == run(1));
  const Dropout drop(0.25, Init(1));
  const auto y = golden::values_of(drop(mx::ones({100, 100})));
  double sum = 0;
  for (const double v : y) {
    CHECK((v == 0 || v == doctest::Approx(4.0 / 3)));
    sum += v;
  }
  CHECK(sum / 1e4 == doctest::Approx(1).epsilon(0.03));  // five deviations
}

TEST_CASE("edu_hybrid_configs_round_trip_and_are_checked") {
  CHECK(EduHybridConfig::from_json(small(2).to_json()).to_json() == small(2).to_json());
  CHECK_THROWS_WITH_AS(EduHybridConfig::from_json(R"({"version": 3})"), doctest::Contains("version"), Error);
  CHECK_THROWS_WITH_AS(EduHybridConfig::from_json(R"({"use_mamba_ratio": 1.5})"),
                       doctest::Contains("use_mamba_ratio"), Error);
  CHECK_THROWS_WITH_AS(EduHybridConfig::from_json(R"({"num_heads": 5})"),
                       doctest::Contains("num_heads must divide"), Error);
}

}  // namespace aspis
