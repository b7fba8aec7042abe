#include "aspis/nn/mamba3_block.h"

#include <fmt/format.h>
#include <mlx/ops.h>

#include "aspis/base/error.h"
#include "aspis/nn/branch.h"

namespace aspis {
namespace {

mx::ShapeElem elem(int64_t n) { return static_cast<mx::ShapeElem>(n); }

const Mamba3Config& checked(const Mamba3Config& config) {
  config.check("Mamba3Block");
  return config;
}

State state_of(const Mamba3State& s) {
  return {"mamba3", {{"angle", s.angle}, {"ssm", s.ssm}, {"k", s.k}, {"v", s.v}}};
}

Mamba3State values_of(const State& s) { return {s.at("angle"), s.at("ssm"), s.at("k"), s.at("v")}; }

}  // namespace

void Mamba3Config::check(const std::string& where) const {
  const auto fail = [&](std::string required, std::string got) {
    throw Error(ErrorKind::kUsage,
                {.where = where, .required = std::move(required), .got = std::move(got), .hint = ""});
  };
  const std::pair<const char*, int64_t> sizes[] = {{"width", width},     {"state", state},   {"expand", expand},
                                                   {"headdim", headdim}, {"groups", groups}, {"rank", rank}};
  for (const auto& [name, value] : sizes) {
    if (value < 1) fail(fmt::format("{} must be at least 1", name), std::to_string(value));
  }
  if (inner() % headdim != 0) {
    fail("headdim must divide expand * width", fmt::format("{} and {}", headdim, inner()));
  }
  if (heads() % groups != 0) {
    fail("groups must divide the number of heads", fmt::format("{} and {}", groups, heads()));
  }
  if (rope_fraction != 0.5 && rope_fraction != 1) {
    fail("rope_fraction must be 0.5 or 1", fmt::format("{}", rope_fraction));
  }
  if (angles() < 1) fail("a state that has pairs to turn: at least 4, or 2 with rope_fraction 1", std::to_string(state));
}

Mamba3Block::Mamba3Block(const Mamba3Config& c, const Init& init)
    : config_(checked(c)),
      in_proj(c.width, 2 * c.inner() + 2 * c.state * c.groups * c.rank + 3 * c.heads() + c.angles(), false,
              init.child("in_proj")),
      dt_bias(init.dt_bias("dt_bias", c.heads())),
      B_bias(init.constant({elem(c.heads()), elem(c.rank), elem(c.state)}, 1)),
      C_bias(init.constant({elem(c.heads()), elem(c.rank), elem(c.state)}, 1)),
      B_norm(init.constant({elem(c.state)}, 1), "RMSNorm"),
      C_norm(init.constant({elem(c.state)}, 1), "RMSNorm"),
      D(init.constant({elem(c.heads())}, 1)),
      out_proj(c.inner(), c.width, false, init.child("out_proj")) {
  add_child("in_proj", in_proj);
  add_parameter("dt_bias", dt_bias, Decay::kNo);
  add_parameter("B_bias", B_bias, Decay::kNo);
  add_parameter("C_bias", C_bias, Decay::kNo);
  add_child("B_norm", B_norm);
  add_child("C_norm", C_norm);
  add_parameter("D", D, Decay::kNo);
  if (c.rank > 1) {
    const mx::Shape shape{elem(c.heads()), elem(c.rank), elem(c.headdim)};
    const float share = 1 / static_cast<float>(c.rank);
    mimo_x = init.constant(shape, share);
    mimo_z = init.constant(shape, 1);
    mimo_o = init.constant(shape, share);
    add_parameter("mimo_x", *mimo_x);
    add_parameter("mimo_z", *mimo_z);
    add_parameter("mimo_o", *mimo_o);
  }
  if (c.out_norm) {
    norm.emplace(init.constant({elem(c.inner())}, 1), "RMSNorm");
    add_child("norm", *norm);
  }
  add_child("out_proj", out_proj);
}

Mamba3Block::Parts Mamba3Block::parts_of(const mx::array& h) const {
  const auto& c = config_;
  const int64_t BC = c.state * c.groups * c.rank;
  const auto p = split_sizes(in_proj(h), {c.inner(), c.inner(), BC, BC, c.heads(), c.heads(), c.heads(), c.angles()}, -1);
  const auto shaped = [&](const mx::array& a, std::initializer_list<int64_t> last) {
    mx::Shape shape(a.shape().begin(), a.shape().end() - 1);
    for (const int64_t n : last) shape.push_back(elem(n));
    return mx::reshape(a, shape);
  };
  return {shaped(p[0], {c.heads(), c.headdim}),
          shaped(p[1], {c.heads(), c.headdim}),
          shaped(p[2], {c.rank, c.groups, c.state}),
          shaped(p[3], {c.rank, c.groups, c.state}),
          p[4],
          p[5],
          p[6],
          p[7]};
}

Mamba3Options Mamba3Block::options_of(const Parts& parts) const {
  Mamba3Options o;
  o.angle = parts.angle;
  o.dt_bias = dt_bias;
  o.B_norm_weight = B_norm.weight;
  o.C_norm_weight = C_norm.weight;
  o.B_bias = B_bias;
  o.C_bias = C_bias;
  o.D = D;
  o.z = parts.z;
  o.mimo_x = mimo_x, o.mimo_z = mimo_z, o.mimo_o = mimo_o;
  if (norm) o.out_norm_weight = mx::reshape(norm->weight, {elem(config_.heads()), elem(config_.headdim)});
  o.pairing = config_.rank > 1 ? RotaryPairing::kHalf : RotaryPairing::kAdjacent;
  return o;
}

mx::array Mamba3Block::operator()(const mx::array& h, const ScanDirection& direction) const {
  return unvisit_tokens(prefill(visit_tokens(h, direction), initial_state(h.shape(0))).first, direction);
}

State Mamba3Block::initial_state(int64_t batch) const {
  const auto& c = config_;
  return state_of(mamba3_zero_state(static_cast<int>(batch), static_cast<int>(c.heads()), static_cast<int>(c.rank),
                                    static_cast<int>(c.headdim), static_cast<int>(c.state),
                                    static_cast<int>(c.angles()), D.dtype()));
}

std::pair<mx::array, State> Mamba3Block::prefill(const mx::array& h, const State& state) const {
  require(h.ndim() == 3 && h.shape(2) == config_.width, [&] {
    return Error::Parts{.where = type_name(),
                        .required = fmt::format("the input must have shape {{B, L, {}}}", config_.width),
                        .got = fmt::format("{{{}}}", fmt::join(h.shape(), ", ")),
                        .hint = ""};
  });
  check_state(state, h.shape(0));
  const auto p = parts_of(h);
  Mamba3Options o = options_of(p);
  o.initial_state = values_of(state);
  auto [y, next] = mamba3_with_state(p.x, p.B, p.C, p.dd_dt, p.dd_A, p.trap, o);
  return {out_proj(mx::reshape(y, {h.shape(0), h.shape(1), elem(config_.inner())})), state_of(next)};
}

std::pair<mx::array, State> Mamba3Block::step(const mx::array& h, const State& state) const {
  require(h.ndim() == 2 && h.shape(1) == config_.width, [&] {
    return Error::Parts{.where = type_name(),
                        .required = fmt::format("the input must have shape {{B, {}}}", config_.width),
                        .got = fmt::format("{{{}}}", fmt::join(h.shape(), ", ")),
                        .hint = ""};
  });
  check_state(state, h.shape(0));
  const auto p = parts_of(h);
  auto [y, next] = mamba3_step(values_of(state), p.x, p.B, p.C, p.dd_dt, p.dd_A, p.trap, options_of(p));
  return {out_proj(mx::reshape(y, {h.shape(0), elem(config_.inner())})), state_of(next)};
}

}  // namespace aspis
