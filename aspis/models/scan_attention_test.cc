#include "aspis/models/scan_attention.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/random.h>

#include <cmath>
#include <numeric>

#include "aspis/models/registry.h"
#include "aspis/models/vision_mamba.h"
#include "aspis/nn/test_support.h"
#include "aspis/ops/selective_scan/selective_scan.h"

namespace aspis {
namespace {

using golden::values_of;

VisionMambaConfig small(const std::string& merge) {
  VisionMambaConfig c;
  c.img_size = 12;
  c.patch_size = 4;
  c.embed_dim = 8;
  c.depth = 2;
  c.d_state = 4;
  c.num_classes = 3;
  c.merge = merge;
  return c;
}

mx::array picture(int height, int width) {
  return mx::reshape(mx::sin(mx::arange(1.0 * height * width, mx::float32)), {1, height, width, 1});
}

}  // namespace

TEST_CASE("the matrix of a scan gives the scan") {
  // One channel and positive numbers all along, so that the mean of absolute values is the value.
  MambaBlock block({.width = 1, .state = 3, .conv = 2, .expand = 1, .dt_rank = 1}, Init(3));
  for (const auto& p : block.parameter_refs()) {
    if (p.name != "A_log" && p.name != "dt_proj.bias") *p.value = mx::abs(*p.value) + mx::array(0.1f);
  }
  const auto x = mx::abs(picture(1, 6)) + mx::array(0.2f);
  const auto u_in = mx::reshape(x, {1, 6, 1});
  for (const ScanDirection& direction : {ScanDirection{}, ScanDirection{std::nullopt, true},
                                         ScanDirection{mx::array({3, 0, 5, 1, 2, 4}, {6}, mx::int32), false}}) {
    const MambaBranch branch{block.conv1d, block.x_proj, block.dt_proj, block.A_log, block.D};
    const auto matrix = scan_matrix(branch, u_in, direction);
    const auto u = values_of(block.conv1d(u_in, direction)), y = values_of(branch(u_in, std::nullopt, direction));
    const double skip = values_of(block.D)[0];
    for (size_t t = 0; t < 6; t++) {
      double sum = skip * u[t];
      for (size_t s = 0; s < 6; s++) sum += matrix[t * 6 + s] * u[s];
      CHECK(sum == doctest::Approx(y[t]).epsilon(1e-5));
    }
  }
}

TEST_CASE("relevance is a share of every patch, also on other sizes") {
  for (const char* merge : {"sum", "vmamba"}) {
    const VisionMamba model(small(merge), 1);
    const auto r = scan_relevance(model, picture(8, 16));
    CHECK(r.height == 2);
    CHECK(r.width == 4);
    REQUIRE(r.values.size() == 8);
    double sum = 0;
    for (const float v : r.values) {
      CHECK(v > 0);
      sum += v;
    }
    CHECK(sum == doctest::Approx(1).epsilon(1e-4));
  }
}

TEST_CASE("a patch that no scan lets in keeps its residual share only") {
  // With B = 0 nothing enters the state: what is left is each token's own half in each of the layers.
  VisionMamba model(small("sum"), 1);
  for (const auto& p : model.parameter_refs()) {
    if (p.name.ends_with("x_proj.weight")) *p.value = mx::zeros_like(*p.value);
  }
  for (const float v : scan_relevance(model, picture(12, 12)).values) {
    CHECK(v == doctest::Approx(0.25 / 9).epsilon(1e-5));
  }
}

TEST_CASE("Vim's relevance is that of its class token") {
  const auto model = make_model("vim_tiny_patch16_224", {{"img_size", "32"},
                                                         {"patch_size", "8"},
                                                         {"stride", "8"},
                                                         {"embed_dim", "16"},
                                                         {"depth", "2"},
                                                         {"num_classes", "4"},
                                                         {"in_channels", "1"}});
  const auto r = scan_relevance(*model, picture(32, 32));
  CHECK(r.height == 4);
  REQUIRE(r.values.size() == 16);
  CHECK(std::accumulate(r.values.begin(), r.values.end(), 0.0) < 1);
  for (const float v : r.values) CHECK(v > 0);
}

TEST_CASE("models without scans over all patches are refused in words") {
  const auto vit = make_model("vit_fmnist", {{"depth", "1"}});
  CHECK_THROWS_WITH_AS(scan_relevance(*vit, picture(28, 28)), doctest::Contains("vision_mamba, vim"), Error);
  CHECK_THROWS_AS(scan_relevance(VisionMamba(small("sum")), mx::zeros({2, 12, 12, 1})), Error);
}

TEST_CASE("gradient times input agrees with differences") {
  const VisionMamba model(small("sum"), 1);
  const auto x = picture(12, 12);
  const auto map = gradient_times_input(model, x, 2);
  REQUIRE(map.size() == 144);
  const auto logit = [&](size_t pixel, float step) {
    std::vector<float> bump(144);
    bump[pixel] = step;
    return values_of(model.logits(x + mx::array(bump.begin(), {1, 12, 12, 1}, mx::float32)))[2];
  };
  for (const size_t pixel : {5, 70, 143}) {
    const double numeric = (logit(pixel, 0.02f) - logit(pixel, -0.02f)) / 0.04 * values_of(x)[pixel];
    CHECK(map[pixel] == doctest::Approx(std::fabs(numeric)).epsilon(0.02));
  }
  CHECK_THROWS_AS(gradient_times_input(model, x, 3), Error);
}

}  // namespace aspis
