#include "aspis/nn/init.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "aspis/base/error.h"

namespace aspis {
namespace {

std::vector<float> values(const mx::array& a) { return {a.data<float>(), a.data<float>() + a.size()}; }

double mean(const std::vector<float>& v) {
  double sum = 0;
  for (const float x : v) sum += x;
  return sum / static_cast<double>(v.size());
}

double deviation(const std::vector<float>& v) {
  double sum = 0;
  const double m = mean(v);
  for (const float x : v) sum += (x - m) * (x - m);
  return std::sqrt(sum / static_cast<double>(v.size()));
}

}  // namespace

TEST_CASE("values_depend_on_seed_and_dotted_name_only") {
  const Init init(7);
  const auto a = values(init.child("x").uniform("weight", {64}, 1));
  (void)init.child("y").normal("weight", {64}, 1);
  CHECK(values(Init(7).child("x").uniform("weight", {64}, 1)) == a);
  CHECK(values(init.child("y").uniform("weight", {64}, 1)) != a);
  CHECK(values(init.child("x").uniform("bias", {64}, 1)) != a);
  CHECK(values(Init(8).child("x").uniform("weight", {64}, 1)) != a);
  // One dotted name is one stream, however it is put together.
  CHECK(values(init.child("a").child("b").uniform("w", {8}, 1)) == values(init.child("a.b").uniform("w", {8}, 1)));
}

TEST_CASE("uniform_fills_its_bounds") {
  const auto v = values(Init(1).uniform("w", {100, 100}, 0.5));
  CHECK(*std::max_element(v.begin(), v.end()) <= 0.5f);
  CHECK(*std::max_element(v.begin(), v.end()) > 0.499f);
  CHECK(*std::min_element(v.begin(), v.end()) < -0.499f);
  CHECK(std::abs(mean(v)) < 0.01);
  const auto k = values(Init(1).kaiming_uniform("w", {100, 100}, 25));
  CHECK(*std::max_element(k.begin(), k.end()) == doctest::Approx(0.2).epsilon(0.01));
}

TEST_CASE("normals_have_their_deviation") {
  const auto v = values(Init(1).normal("w", {20000}, 3));
  CHECK(std::abs(mean(v)) < 0.1);
  CHECK(deviation(v) == doctest::Approx(3).epsilon(0.03));
  const auto t = values(Init(1).truncated_normal("w", {20000}, 1, 1));
  CHECK(*std::max_element(t.begin(), t.end()) <= 1);
  CHECK(deviation(t) == doctest::Approx(0.5396).epsilon(0.03));  // of a standard normal cut at 1
}

TEST_CASE("dt_bias_is_the_inverse_softplus_of_a_log_uniform_step") {
  auto dt = values(Init(3).dt_bias("bias", 4000));
  for (auto& v : dt) v = static_cast<float>(std::log1p(std::exp(static_cast<double>(v))));
  std::sort(dt.begin(), dt.end());
  CHECK(dt.front() >= 0.000999f);
  CHECK(dt.back() <= 0.1001f);
  CHECK(dt[2000] == doctest::Approx(0.01).epsilon(0.1));  // the median of log-uniform 0.001 .. 0.1
  // The floor holds.
  const auto floored = values(Init(3).dt_bias("bias", 100, 1e-6, 1e-5, 1e-4));
  for (const float v : floored)
    CHECK(std::log1p(std::exp(static_cast<double>(v))) == doctest::Approx(1e-4).epsilon(1e-3));
}

TEST_CASE("a_log_starts_at_minus_one_to_minus_n") {
  const auto v = values(Init().a_log(2, 3));
  for (int d = 0; d < 2; d++) {
    for (int n = 0; n < 3; n++) CHECK(-std::exp(v[d * 3 + n]) == doctest::Approx(-(n + 1)));
  }
}

TEST_CASE("recipe_names_are_checked") {
  CHECK(parse_init_recipe("s0") == InitRecipe::kS0);
  CHECK(parse_init_recipe(to_string(InitRecipe::kStandard)) == InitRecipe::kStandard);
  CHECK_THROWS_AS(parse_init_recipe("S0"), Error);
}

}  // namespace aspis
