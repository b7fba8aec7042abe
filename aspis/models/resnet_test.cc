#include "aspis/models/resnet.h"

#include <mlx/ops.h>

#include "aspis/base/error.h"
#include "aspis/models/golden_model.h"
#include "aspis/models/registry.h"
#include "aspis/nn/pool.h"

namespace aspis {
namespace {

ResNetConfig small() {
  ResNetConfig c;
  c.img_size = 64;
  c.in_channels = 2;
  c.num_classes = 3;
  c.depths = {1, 2, 1, 1};
  c.widths = {2, 3, 4, 5};
  return c;
}

}  // namespace

TEST_CASE("resnet_is_timms_at_any_size_and_in_training") {
  golden::expect_golden_model<ResNet>(small(), "resnet", "baselines");
  // Statistics over few pixels are divided by small deviations.
  golden::expect_golden_model<ResNet>(small(), "resnet_training", "baselines", true, 20);
}

TEST_CASE("resnet_has_the_published_parameter_count_and_multiply_adds") {
  const BlankWeights blank;
  auto model = make_model("resnet50");
  CHECK(model->parameter_count() == 25557032);
  model->eval();
  CHECK(static_cast<double>(model->cost().macs) == doctest::Approx(4.09e9).epsilon(0.01));
}

TEST_CASE("max_pool_takes_the_largest_value_of_a_window") {
  const auto x = mx::reshape(mx::array({-5.f, -2.f, -9.f, -4.f, -7.f, -1.f, -3.f, -8.f, -6.f}), {1, 3, 3, 1});
  CHECK(golden::values_of(max_pool(x, 3, 2, 1)) == std::vector<double>{-2, -1, -3, -1});
  CHECK(golden::values_of(max_pool(x, 2, 1, 0)) == std::vector<double>{-2, -1, -3, -1});
  CHECK(max_pool(mx::zeros({2, 5, 8, 3}), 3, 2, 1).shape() == mx::Shape{2, 3, 4, 3});
}

TEST_CASE("resnet_configs_round_trip_and_are_checked") {
  CHECK(ResNetConfig::from_json(small().to_json()).to_json() == small().to_json());
  CHECK_THROWS_WITH_AS(ResNetConfig::from_json(R"({"widths": [1, 2, 3]})"), doctest::Contains("widths"), Error);
  CHECK_THROWS_WITH_AS(ResNetConfig::from_json(R"({"depths": [1, 2, 0, 1]})"), doctest::Contains("depths"), Error);
  CHECK(ResNet(small(), 1).logits(mx::zeros({1, 1, 1, 2})).shape() == mx::Shape{1, 3});
}

}  // namespace aspis
