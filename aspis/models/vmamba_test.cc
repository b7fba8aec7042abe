#include "aspis/models/vmamba.h"

#include <mlx/ops.h>

#include "aspis/base/error.h"
#include "aspis/models/golden_model.h"
#include "aspis/models/registry.h"

namespace aspis {
namespace {

VMambaConfig vanilla() {
  VMambaConfig c;
  c.img_size = 32;
  c.in_channels = 2;
  c.num_classes = 3;
  c.dim = 4;
  c.depths = {1, 1, 2, 1};
  c.d_state = 3;
  return c;
}

VMambaConfig fast() {
  VMambaConfig c = vanilla();
  c.d_state = c.ssm_ratio = 1;
  c.gate = c.conv_bias = false;
  c.mlp_ratio = 2;
  c.patch_embed = "v2";
  c.downsample = "v3";
  return c;
}

}  // namespace

TEST_CASE("vmamba_matches_the_golden_values_and_gradients_in_every_scan_mode") {
  golden::expect_golden_model<VMamba>(vanilla(), "vanilla", "vmamba");
  golden::expect_golden_model<VMamba>(fast(), "fast", "vmamba");
  for (const char* mode : {"unidirectional", "bidirectional", "cascade"}) {
    VMambaConfig c = fast();
    c.depths = {1, 1, 1, 1};
    c.scan_mode = mode;
    golden::expect_golden_model<VMamba>(c, mode, "vmamba");
  }
}

TEST_CASE("vmamba_has_the_published_parameter_counts_and_multiply_adds") {
  const BlankWeights blank;
  const std::pair<const char*, int64_t> counts[] = {
      {"vmamba_tiny_vanilla", 22893448}, {"vmamba_small_vanilla", 44417416}, {"vmamba_base_vanilla", 76254056},
      {"vmamba_tiny_s2l5", 30705832},    {"vmamba_small_s2l15", 50147752},   {"vmamba_base_s2l15", 88557800},
      {"vmamba_tiny_s1l8", 30249064},    {"vmamba_small_s1l20", 49012840},   {"vmamba_base_s1l20", 86614504}};
  for (const auto& [name, count] : counts) {
    CAPTURE(std::string(name));
    CHECK(make_model(name)->parameter_count() == count);
  }
  // Published: 4.9 G and 8.7 G.
  CHECK(static_cast<double>(make_model("vmamba_tiny_s1l8")->cost().macs) == doctest::Approx(4.9e9).epsilon(0.02));
  CHECK(static_cast<double>(make_model("vmamba_small_s2l15")->cost().macs) ==
        doctest::Approx(8.7e9).epsilon(0.02));
}

TEST_CASE("vmamba_starts_as_its_recipe_says") {
  VMambaConfig c = vanilla();
  for (const char* recipe : {"v0", "v1", "v2"}) {
    c.ssm_init = recipe;
    CAPTURE(std::string(recipe));
    const Ss2d op(4, c, Init(3));
    const auto bias = golden::values_of(op.dt_projs_bias), A = golden::values_of(op.A_logs);
    const auto [least, most] = std::minmax_element(bias.begin(), bias.end());
    if (c.ssm_init == "v0") CHECK((*least >= -7 && *most < -2 && A[1] == doctest::Approx(std::log(2.0))));
    if (c.ssm_init == "v1") CHECK((*least < 0 && *most > 0 && *most < 1 && A[0] != A[3]));
    if (c.ssm_init == "v2") CHECK((*least >= 0 && *most <= 0.1 && *most > 0.05 && A[1] == 0));
  }
}

TEST_CASE("vmamba_configs_round_trip_and_are_checked") {
  CHECK(VMambaConfig::from_json(fast().to_json()).to_json() == fast().to_json());
  CHECK_THROWS_WITH_AS(VMambaConfig::from_json(R"({"depths": [1]})"), doctest::Contains("depths"), Error);
  CHECK_THROWS_WITH_AS(VMambaConfig::from_json(R"({"scan_mode": "cros"})"), doctest::Contains("cross"), Error);
  CHECK_THROWS_WITH_AS(VMambaConfig::from_json(R"({"d_conv": 4})"), doctest::Contains("d_conv"), Error);
  CHECK_THROWS_WITH_AS(VMambaConfig::from_json(R"({"downsample": "v2"})"), doctest::Contains("downsample"), Error);
  const VMamba model(vanilla(), 1);
  CHECK_THROWS_WITH_AS(model.logits(mx::zeros({1, 3, 64, 2})), doctest::Contains("at least 4"), Error);
}

}  // namespace aspis
