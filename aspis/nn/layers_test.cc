#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/random.h>
#include <mlx/transforms.h>

#include "aspis/base/error.h"
#include "aspis/nn/attention.h"
#include "aspis/nn/branch.h"
#include "aspis/nn/linear.h"
#include "aspis/nn/norm.h"
#include "aspis/nn/patch_embed.h"
#include "aspis/nn/test_support.h"

namespace aspis {
namespace {

using golden::normalised_error;

/// Same values on every run, of order one, no two alike.
mx::array ramp(const mx::Shape& shape) {
  int n = 1;
  for (const auto s : shape) n *= s;
  const auto i = mx::arange(n, mx::float32);
  return mx::reshape(mx::sin(i * mx::array(0.7f)) + mx::cos(i * i * mx::array(0.013f)), shape);
}

}  // namespace

TEST_CASE("linear_is_x_times_weight_transposed_plus_bias") {
  const Linear layer(3, 2, true, Init(1));
  const auto x = ramp({2, 4, 3});
  CHECK(normalised_error(layer(x), mx::matmul(x, mx::transpose(layer.weight)) + *layer.bias) < 1e-6);
  CHECK(Linear(3, 2, false, Init(1)).parameters().size() == 1);
}

TEST_CASE("layer_norm_has_zero_mean_and_unit_variance_before_its_affine_part") {
  LayerNorm norm(16, Init());
  const auto x = ramp({3, 16}) * mx::array(5.0f) + mx::array(2.0f);
  const auto y = norm(x);
  CHECK(normalised_error(mx::mean(y, -1) + mx::array(1.0f), mx::ones({3})) < 1e-5);
  CHECK(normalised_error(mx::var(y, -1), mx::ones({3})) < 1e-4);
  norm.update(NamedArrays{{"weight", mx::full({16}, 2.0f)}, {"bias", mx::full({16}, 3.0f)}});
  CHECK(normalised_error(norm(x), y * mx::array(2.0f) + mx::array(3.0f)) < 1e-5);
}

TEST_CASE("layer_norm_of_a_residual_adds_its_terms") {
  const LayerNorm norm(8, Init());
  const auto a = ramp({2, 3, 8}), b = ramp({2, 3, 8}) * mx::array(-0.3f) + mx::array(1.0f);
  const auto [n, sum] = norm(Residual{a, b});
  CHECK(normalised_error(sum, a + b) < 1e-6);
  CHECK(normalised_error(n, norm(a + b)) < 1e-5);
  const auto [n1, sum1] = norm(Residual{a, {}});
  CHECK(normalised_error(n1, norm(a)) < 1e-6);
  CHECK(normalised_error(sum1, a) == 0);
  CHECK(normalised_error(Residual{a, b}.value(), a + b) < 1e-6);
}

TEST_CASE("rms_norm_divides_by_the_root_of_the_mean_square") {
  const RMSNorm norm(8, Init(), 0.0f);
  const auto x = ramp({3, 8});
  CHECK(normalised_error(mx::mean(mx::square(norm(x)), -1), mx::ones({3})) < 1e-5);
}

TEST_CASE("fan_out_adds_gradients_and_split_joins_them") {
  const auto x = ramp({2, 6});
  const auto f = [](const std::vector<mx::array>& in) {
    const auto c = fan_out(in[0], 3);
    const auto parts = split_sizes(c[2], {1, 3, 2}, -1);
    return mx::sum(c[0] * c[1]) + mx::sum(parts[1] * mx::array(5.0f)) + mx::sum(mx::square(parts[2]));
  };
  const auto g = mx::value_and_grad(std::function<mx::array(const std::vector<mx::array>&)>(f))({x}).second[0];
  const mx::array pick({0.f, 0.f, 0.f, 0.f, 2.f, 2.f}, {6}), five({0.f, 5.f, 5.f, 5.f, 0.f, 0.f}, {6});
  CHECK(normalised_error(g, mx::array(2.0f) * x + five + pick * x) < 1e-6);
  const auto rows = split_sizes(ramp({4, 2}), {1, 3}, 0);
  CHECK(rows[1].shape() == mx::Shape{3, 2});
  CHECK(normalised_error(mx::concatenate(rows, 0), ramp({4, 2})) == 0);
}

TEST_CASE("patch_embed_equals_a_strided_convolution") {
  const PatchEmbed embed(2, 3, 5, 2, Init(4));
  const auto x = ramp({2, 4, 6, 3});  // not square
  const auto want = mx::conv2d(x, embed.proj.weight, {2, 2}) + embed.proj.bias;
  const auto got = embed(x);
  CHECK(got.shape() == mx::Shape{2, 6, 5});
  CHECK(normalised_error(got, mx::reshape(want, {2, 6, 5})) < 1e-6);
  const PatchEmbed volume(3, 1, 4, 2, Init(4));
  const auto v = ramp({1, 2, 4, 6, 1});
  CHECK(normalised_error(volume(v), mx::reshape(mx::conv3d(v, volume.proj.weight, {2, 2, 2}) + volume.proj.bias,
                                                {1, 6, 4})) < 1e-6);
  CHECK_THROWS_WITH_AS(embed(ramp({2, 4, 5, 3})), doctest::Contains("patch size 2 must divide"), Error);
  CHECK_THROWS_WITH_AS(embed(ramp({2, 4, 4, 1})), doctest::Contains("3 channels last"), Error);
  CHECK_THROWS_AS(embed(ramp({4, 4, 3})), Error);
}

TEST_CASE("attention_heads_must_divide_the_width") {
  CHECK_THROWS_WITH_AS(MultiHeadAttention(10, 3, false, Init()), doctest::Contains("divide the width 10"), Error);
  const MultiHeadAttention layer(8, 2, true, Init());
  CHECK(layer.parameters().size() == 8);
  CHECK(layer(ramp({2, 5, 8})).shape() == mx::Shape{2, 5, 8});
}

}  // namespace aspis
