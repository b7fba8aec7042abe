#pragma once

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "aspis/base/file.h"
#include "aspis/io/array_io.h"
#include "aspis/nn/module.h"

/// Helpers of the tests that compare with the files of tests/data/golden.
namespace aspis::golden {

/// All tensors of one case of a file: "param/in_proj.weight", "out/y", ...
inline std::map<std::string, mx::array> load_case(const std::string& name,
                                                  const std::string& file = "vision_mamba") {
  const NamedArrays all =
      load_arrays(read_file(ASPIS_SOURCE_DIR "/tests/data/golden/" + file + ".safetensors"), file);
  std::map<std::string, mx::array> out;
  for (const auto& [key, value] : all) {
    if (key.rfind(name + "/", 0) == 0) out.emplace(key.substr(name.size() + 1), value);
  }
  REQUIRE(!out.empty());
  return out;
}

/// The tensors under "<kind>/", without the prefix.
inline NamedArrays under(const std::map<std::string, mx::array>& tensors, const std::string& kind) {
  NamedArrays out;
  for (const auto& [key, value] : tensors) {
    if (key.rfind(kind + "/", 0) == 0) out.emplace_back(key.substr(kind.size() + 1), value);
  }
  return out;
}

inline std::vector<double> values_of(const mx::array& a) {
  auto dense = mx::contiguous(mx::astype(a, mx::float64));
  mx::eval(dense);
  return {dense.data<double>(), dense.data<double>() + dense.size()};
}

/// Largest difference over the largest value: what the tolerances of this project mean.
inline double normalised_error(const mx::array& got, const mx::array& want) {
  REQUIRE(got.size() == want.size());
  const auto a = values_of(got), b = values_of(want);
  double difference = 0, scale = 1e-30;
  for (size_t i = 0; i < a.size(); i++) {
    if (!std::isfinite(a[i])) return INFINITY;
    difference = std::max(difference, std::abs(a[i] - b[i]));
    scale = std::max(scale, std::abs(b[i]));
  }
  return difference / scale;
}

/// Loads the parameters of the case, in float64 so that only the rounding of
/// the stored values (6e-8) is left, and float32 as users run it.
inline void load_params(Module& module, const std::map<std::string, mx::array>& tensors, mx::Dtype dtype) {
  auto values = under(tensors, "param");
  for (auto& buffer : under(tensors, "buffer")) values.push_back(buffer);
  module.load(values);
  module.cast(dtype);
}

/// Tolerances: stored goldens are rounded to float32; float32 results add the
/// rounding of sums over a few hundred terms through several layers.
inline double tolerance(mx::Dtype dtype) { return dtype == mx::float64 ? 2e-7 : 1e-5; }
inline double gradient_tolerance(mx::Dtype dtype) { return dtype == mx::float64 ? 2e-7 : 5e-5; }

/// Compares every gradient of sum(f(module) * cotangent) with the stored one.
template <typename F>
void expect_gradients(Module& module, const std::map<std::string, mx::array>& tensors, mx::Dtype dtype, F forward,
                      double slack = 1) {
  const auto cotangent = mx::astype(tensors.at("in/cotangent"), dtype);
  const auto loss = [&](const std::vector<mx::array>&) {
    return std::vector<mx::array>{mx::sum(forward() * cotangent)};
  };
  const auto names = module.trainable_parameters();
  const auto result = value_and_grad(module, loss, {});
  REQUIRE(result.gradients.size() == names.size());
  for (size_t i = 0; i < names.size(); i++) {
    INFO(names[i].first);
    const auto& want = tensors.at("grad/" + names[i].first);
    // A bias in front of a norm over the batch: zero but for rounding, on either side.
    const auto largest = [](const mx::array& a) {
      double m = 0;
      for (const double v : values_of(a)) m = std::max(m, std::abs(v));
      return m;
    };
    if (largest(want) < 1e-10) {
      CHECK(largest(result.gradients[i]) < (dtype == mx::float64 ? 1e-10 : 1e-4));
      continue;
    }
    CHECK(normalised_error(result.gradients[i], tensors.at("grad/" + names[i].first)) <
          slack * gradient_tolerance(dtype));
  }
}

}  // namespace aspis::golden
