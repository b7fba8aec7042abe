#include "aspis/nn/mamba2_block.h"

#include <fmt/format.h>
#include <mlx/ops.h>

#include "aspis/base/error.h"
#include "aspis/nn/branch.h"
#include "aspis/ops/common/composed.h"
#include "aspis/ops/gated_norm/gated_norm.h"
#include "aspis/ops/ssd/ssd.h"

namespace aspis {
namespace {

mx::ShapeElem elem(int64_t n) { return static_cast<mx::ShapeElem>(n); }

const Mamba2Config& checked(const Mamba2Config& config) {
  config.check("Mamba2Block");
  return config;
}

/// The logarithm of U(1, 16), a value for each head.
mx::array initial_a_log(int64_t heads, const Init& init) {
  return mx::log(init.uniform("A_log", {elem(heads)}, 7.5) + mx::array(8.5f));
}

SsdOptions options_of(const Mamba2Config& c, const mx::array& D, const mx::array& dt_bias) {
  SsdOptions o;
  o.D = D;
  o.dt_bias = dt_bias;
  o.dt_softplus = true;
  if (c.dt_max > 0) o.dt_limit = {c.dt_min, c.dt_max};
  return o;
}

}  // namespace

void Mamba2Config::check(const std::string& where) const {
  const auto fail = [&](std::string required, std::string got) {
    throw Error(ErrorKind::kUsage,
                {.where = where, .required = std::move(required), .got = std::move(got), .hint = ""});
  };
  const std::pair<const char*, int64_t> sizes[] = {{"width", width},   {"state", state},     {"conv", conv},
                                                   {"expand", expand}, {"headdim", headdim}, {"groups", groups}};
  for (const auto& [name, value] : sizes) {
    if (value < 1) fail(fmt::format("{} must be at least 1", name), std::to_string(value));
  }
  if (inner() % headdim != 0) {
    fail("headdim must divide expand * width", fmt::format("{} and {}", headdim, inner()));
  }
  if (heads() % groups != 0) {
    fail("groups must divide the number of heads", fmt::format("{} and {}", groups, heads()));
  }
  if (!(dt_min >= 0 && dt_min <= dt_max)) fail("0 <= dt_min <= dt_max", fmt::format("{} and {}", dt_min, dt_max));
}

Mamba2Block::GatedNorm::GatedNorm(int64_t width, const Init& init) : weight(init.constant({elem(width)}, 1)) {
  add_parameter("weight", weight, Decay::kNo);
}

Mamba2Block::Mamba2Block(const Mamba2Config& c, const Init& init)
    : config_(checked(c)),
      in_proj(c.width, 2 * c.inner() + 2 * c.groups * c.state + c.heads(), false, init.child("in_proj")),
      conv1d(c.conv_channels(), c.conv, init.child("conv1d")),
      dt_bias(init.dt_bias("dt_bias", c.heads())),
      A_log(initial_a_log(c.heads(), init)),
      D(init.constant({elem(c.heads())}, 1)),
      norm(c.inner(), init.child("norm")),
      out_proj(c.inner(), c.width, false, init.child("out_proj")) {
  add_child("in_proj", in_proj);
  add_child("conv1d", conv1d);
  add_parameter("dt_bias", dt_bias, Decay::kNo);
  add_parameter("A_log", A_log, Decay::kNo);
  add_parameter("D", D, Decay::kNo);
  add_child("norm", norm);
  add_child("out_proj", out_proj);
}

mx::array Mamba2Block::finish(const mx::array& y, const mx::array& z) const {
  GatedNormOptions o;
  o.z = z;
  o.weight = norm.weight;
  o.group_size = static_cast<int>(config_.inner() / config_.groups);
  return out_proj(rmsnorm_gated(mx::reshape(y, z.shape()), o));
}

mx::array Mamba2Block::operator()(const mx::array& h, const ScanDirection& direction) const {
  return unvisit_tokens(prefill(visit_tokens(h, direction), initial_state(h.shape(0))).first, direction);
}

State Mamba2Block::initial_state(int64_t batch) const {
  const auto& c = config_;
  return {"mamba2",
          {{"conv", mx::zeros({elem(batch), elem(c.conv - 1), elem(c.conv_channels())}, A_log.dtype())},
           {"ssm", mx::zeros({elem(batch), elem(c.heads()), elem(c.headdim), elem(c.state)}, A_log.dtype())}}};
}

std::pair<mx::array, State> Mamba2Block::prefill(const mx::array& h, const State& state) const {
  const auto& c = config_;
  require(h.ndim() == 3 && h.shape(2) == c.width, [&] {
    return Error::Parts{.where = type_name(),
                        .required = fmt::format("the input must have shape {{B, L, {}}}", c.width),
                        .got = fmt::format("{{{}}}", fmt::join(h.shape(), ", ")),
                        .hint = ""};
  });
  check_state(state, h.shape(0));
  const auto B = h.shape(0), L = h.shape(1);
  const auto parts = split_sizes(in_proj(h), {c.inner(), c.conv_channels(), c.heads()}, -1);
  auto [xBC, conv] = conv1d.prefill(parts[1], state.at("conv"));
  const auto xs = split_sizes(xBC, {c.inner(), c.groups * c.state, c.groups * c.state}, -1);
  const mx::Shape matrix{B, L, elem(c.groups), elem(c.state)};
  SsdOptions o = options_of(c, D, dt_bias);
  o.initial_state = state.at("ssm");
  auto [y, ssm] = ssd_with_state(mx::reshape(xs[0], {B, L, elem(c.heads()), elem(c.headdim)}), parts[2],
                                 mx::negative(ops::exp(A_log)), mx::reshape(xs[1], matrix),
                                 mx::reshape(xs[2], matrix), o);
  return {finish(y, parts[0]), {"mamba2", {{"conv", conv}, {"ssm", ssm}}}};
}

std::pair<mx::array, State> Mamba2Block::step(const mx::array& h, const State& state) const {
  const auto& c = config_;
  require(h.ndim() == 2 && h.shape(1) == c.width, [&] {
    return Error::Parts{.where = type_name(),
                        .required = fmt::format("the input must have shape {{B, {}}}", c.width),
                        .got = fmt::format("{{{}}}", fmt::join(h.shape(), ", ")),
                        .hint = ""};
  });
  check_state(state, h.shape(0));
  const auto B = h.shape(0);
  const auto parts = split_sizes(in_proj(h), {c.inner(), c.conv_channels(), c.heads()}, -1);
  auto [xBC, conv] = conv1d.step(parts[1], state.at("conv"));
  const auto xs = split_sizes(xBC, {c.inner(), c.groups * c.state, c.groups * c.state}, -1);
  const mx::Shape matrix{B, elem(c.groups), elem(c.state)};
  auto [y, ssm] = ssd_step(state.at("ssm"), mx::reshape(xs[0], {B, elem(c.heads()), elem(c.headdim)}), parts[2],
                           mx::negative(ops::exp(A_log)), mx::reshape(xs[1], matrix), mx::reshape(xs[2], matrix),
                           options_of(c, D, dt_bias));
  return {finish(y, parts[0]), {"mamba2", {{"conv", conv}, {"ssm", ssm}}}};
}

}  // namespace aspis
