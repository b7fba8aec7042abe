// Resizing and pooling against values and gradients that tools/golden/make_resample.py
// computed with PyTorch.

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <cmath>
#include <functional>
#include <string>

#include "aspis/base/file.h"
#include "aspis/io/array_io.h"
#include "aspis/ops/harness/harness.h"
#include "aspis/ops/pool/pool.h"
#include "aspis/ops/resample/interpolate.h"

namespace aspis {
namespace {

mx::array load(const std::string& key) {
  static const NamedArrays all =
      load_arrays(read_file(ASPIS_SOURCE_DIR "/tests/data/golden/resample.safetensors"), "resample.safetensors");
  for (const auto& [name, value] : all) {
    if (name == key) return value;
  }
  FAIL("no tensor ", key);
  return mx::array(0.f);
}

double error(const mx::array& got, const mx::array& want) {
  REQUIRE(got.shape() == want.shape());
  return harness::normalized_error(harness::to_tensor(got), harness::to_tensor(want));
}

// Results and gradients are stored as float32: no check can be closer than 6e-8.
void check(const std::string& name, const std::function<mx::array(const mx::array&)>& op) {
  CAPTURE(name);
  for (const auto dtype : {mx::float64, mx::float32}) {
    CAPTURE(dtype == mx::float64);
    const auto x = mx::astype(load(name + "/in"), dtype), cotangent = mx::astype(load(name + "/cot"), dtype);
    const auto [out, gradients] = mx::vjp(
        [&](const std::vector<mx::array>& in) { return std::vector<mx::array>{op(in[0])}; }, {x}, {cotangent});
    CHECK(error(out[0], load(name + "/out")) < (dtype == mx::float64 ? 1e-7 : 1e-6));
    CHECK(error(gradients[0], load(name + "/grad")) < (dtype == mx::float64 ? 1e-7 : 1e-6));
  }
}

void check_resize(const std::string& name, const std::vector<int>& size, const InterpolateOptions& options) {
  check(name, [&](const mx::array& x) { return interpolate(x, size, options); });
}

constexpr auto kNearest = Interpolation::kNearest, kExact = Interpolation::kNearestExact,
               kLinear = Interpolation::kLinear, kCubic = Interpolation::kCubic;

}  // namespace

TEST_CASE("interpolate gives PyTorch's values and gradients") {
  check_resize("nearest_1d", {11}, {.mode = kNearest});
  check_resize("nearest_2d", {8, 3}, {.mode = kNearest});
  check_resize("nearest_scale", {11, 4}, {.mode = kNearest, .scale = {1.3, 0.6}});
  check_resize("nearest_exact_3d", {5, 3, 8}, {.mode = kExact});
  check_resize("linear_1d", {9}, {.mode = kLinear});
  check_resize("bilinear_up", {9, 7}, {.mode = kLinear});
  check_resize("bilinear_aligned", {7, 3}, {.mode = kLinear, .align_corners = true});
  check_resize("bilinear_scale", {6, 11}, {.mode = kLinear, .scale = {1.7, 2.3}});
  check_resize("bilinear_antialias", {4, 14}, {.mode = kLinear, .antialias = true});
  check_resize("trilinear", {4, 7, 3}, {.mode = kLinear});
  check_resize("bicubic_up", {9, 7}, {.mode = kCubic});
  check_resize("bicubic_down", {4, 5}, {.mode = kCubic});
  check_resize("bicubic_aligned", {7, 9}, {.mode = kCubic, .align_corners = true});
  check_resize("bicubic_antialias", {4, 14}, {.mode = kCubic, .antialias = true});
  check_resize("bicubic_antialias_aligned", {4, 6}, {.mode = kCubic, .align_corners = true, .antialias = true});
}

TEST_CASE("pooling gives PyTorch's values and gradients") {
  const auto max = [](const PoolOptions& o) { return [o](const mx::array& x) { return max_pool(x, o); }; };
  const auto average = [](const PoolOptions& o) { return [o](const mx::array& x) { return avg_pool(x, o); }; };
  check("max_2d", max({.window = {3}, .stride = {2}, .padding = {1}}));
  check("max_dilated", max({.window = {2, 3}, .stride = {1, 2}, .padding = {1}, .dilation = {2, 1}}));
  check("max_ceil", max({.window = {3}, .stride = {2}, .padding = {1}, .ceil_mode = true}));
  check("max_3d", max({.window = {2}}));
  check("average_2d", average({.window = {3}, .stride = {2}, .padding = {1}}));
  check("average_without_padding",
        average({.window = {3}, .stride = {2}, .padding = {1}, .count_include_pad = false}));
  check("average_ceil", average({.window = {3, 2}, .stride = {2}, .padding = {1}, .ceil_mode = true}));
  check("average_3d", average({.window = {2}}));
  check("adaptive_average", [](const mx::array& x) { return adaptive_avg_pool(x, {3, 10}); });
  check("adaptive_max", [](const mx::array& x) { return adaptive_max_pool(x, {3, 5}); });
}

}  // namespace aspis
