#include "aspis/nn/init.h"

#include <fmt/format.h>
#include <mlx/ops.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "aspis/base/error.h"

namespace aspis {
namespace {

thread_local bool blank_weights = false;

/// An array of `shape` whose elements are `next()` in row-major order.
template <typename F>
mx::array filled(const mx::Shape& shape, F&& next) {
  if (blank_weights) return mx::zeros(shape, mx::float32);
  size_t count = 1;
  for (const auto n : shape) count *= static_cast<size_t>(n);
  std::vector<float> values(count);
  for (auto& v : values) v = static_cast<float>(next());
  return mx::array(values.begin(), shape, mx::float32);
}

}  // namespace

std::string to_string(InitRecipe recipe) { return recipe == InitRecipe::kS0 ? "s0" : "standard"; }

InitRecipe parse_init_recipe(std::string_view name, const std::string& where) {
  if (name == "standard") return InitRecipe::kStandard;
  if (name == "s0") return InitRecipe::kS0;
  throw Error(ErrorKind::kUsage, {.where = where,
                                  .required = "init must be \"standard\" or \"s0\"",
                                  .got = fmt::format("\"{}\"", name),
                                  .hint = ""});
}

BlankWeights::BlankWeights() : before_(blank_weights) { blank_weights = true; }

BlankWeights::~BlankWeights() { blank_weights = before_; }

Init Init::child(std::string_view name) const {
  Init copy = *this;
  copy.prefix_ += std::string(name) + ".";
  return copy;
}

uint64_t Init::key(std::string_view name) const { return hash64(prefix_ + std::string(name)); }

Rng Init::stream(std::string_view parameter) const {
  return Rng(seed_, "init." + prefix_ + std::string(parameter));
}

mx::array Init::constant(const mx::Shape& shape, float value) const {
  return filled(shape, [&] { return value; });
}

mx::array Init::uniform(std::string_view parameter, const mx::Shape& shape, double bound) const {
  Rng rng = stream(parameter);
  return filled(shape, [&] { return rng.uniform(-bound, bound); });
}

mx::array Init::normal(std::string_view parameter, const mx::Shape& shape, double std) const {
  Rng rng = stream(parameter);
  return filled(shape, [&] { return std * rng.normal(); });
}

mx::array Init::truncated_normal(std::string_view parameter, const mx::Shape& shape, double std,
                                 double limit) const {
  Rng rng = stream(parameter);
  return filled(shape, [&] {
    double v = std * rng.normal();
    while (std::abs(v) > limit) v = std * rng.normal();
    return v;
  });
}

mx::array Init::kaiming_uniform(std::string_view parameter, const mx::Shape& shape, int64_t fan_in) const {
  return uniform(parameter, shape, 1 / std::sqrt(static_cast<double>(fan_in)));
}

mx::array Init::dt_bias(std::string_view parameter, int64_t channels, double lo, double hi, double floor) const {
  Rng rng = stream(parameter);
  return filled({static_cast<mx::ShapeElem>(channels)}, [&] {
    const double t = std::max(std::exp(rng.uniform(std::log(lo), std::log(hi))), floor);
    return t + std::log(-std::expm1(-t));
  });
}

mx::array Init::a_log(int64_t channels, int64_t states) const {
  int64_t i = 0;
  return filled({static_cast<mx::ShapeElem>(channels), static_cast<mx::ShapeElem>(states)},
                [&] { return std::log(static_cast<double>(i++ % states + 1)); });
}

}  // namespace aspis
