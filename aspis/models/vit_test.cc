#include "aspis/models/vit.h"

#include <mlx/ops.h>

#include "aspis/base/error.h"
#include "aspis/models/golden_model.h"
#include "aspis/models/registry.h"

namespace aspis {
namespace {

VitConfig small() {
  VitConfig c;
  c.img_size = 32;
  c.patch_size = 8;
  c.in_channels = 2;
  c.embed_dim = 12;
  c.depth = 2;
  c.num_heads = 3;
  c.num_classes = 3;
  return c;
}

}  // namespace

TEST_CASE("vit_is_timms_at_any_size") { golden::expect_golden_model<Vit>(small(), "vit", "baselines"); }

TEST_CASE("vit_has_the_published_parameter_counts_and_multiply_adds") {
  const BlankWeights blank;
  CHECK(make_model("vit_tiny_patch16_224")->parameter_count() == 5717416);
  CHECK(make_model("vit_small_patch16_224")->parameter_count() == 22050664);
  CHECK(make_model("vit_base_patch16_224")->parameter_count() == 86567656);
  // timm states 16.9 G of convolutions and linear layers; attention's two products add 0.7 G.
  CHECK(static_cast<double>(make_model("vit_base_patch16_224")->cost().macs) ==
        doctest::Approx(17.58e9).epsilon(0.005));
}

TEST_CASE("vit_configs_round_trip_and_are_checked") {
  CHECK(VitConfig::from_json(small().to_json()).to_json() == small().to_json());
  CHECK_THROWS_WITH_AS(VitConfig::from_json(R"({"num_heads": 5})"), doctest::Contains("num_heads must divide"),
                       Error);
  CHECK_THROWS_WITH_AS(VitConfig::from_json(R"({"patch_size": 0})"), doctest::Contains("patch_size must be"),
                       Error);
  const Vit model(small(), 1);
  CHECK_THROWS_WITH_AS(model.logits(mx::zeros({1, 32, 32, 3})), doctest::Contains("{B, H, W, 2}"), Error);
  CHECK_THROWS_WITH_AS(model.feature_maps(mx::zeros({1, 32, 32, 2}), {2}), doctest::Contains("[-2, 2)"), Error);
}

}  // namespace aspis
