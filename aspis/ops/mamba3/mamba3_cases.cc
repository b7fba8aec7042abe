#include "aspis/ops/mamba3/mamba3_cases.h"

#include <mlx/ops.h>

#include <map>

#include "aspis/ops/common/primitive.h"
#include "aspis/ops/mamba3/cases.h"
#include "aspis/ops/mamba3/kernel/reference.h"
#include "aspis/ops/mamba3/mamba3.h"

namespace aspis {
namespace {

using harness::Fill;
using harness::Tensors;

bool has(const Mamba3Case& c, char option) { return c.options.find(option) != std::string::npos; }

int angles_of(const Mamba3Case& c) { return has(c, 'a') ? c.state / 4 : 0; }

std::vector<int32_t> cu_of(const Mamba3Case& c) {
  if (!has(c, 'c')) return {};
  const int first = c.length / 3;
  return {0, first, first, c.length - 1, c.length};
}

// Places of the inputs of a case by name.
using Places = std::map<std::string, size_t>;

std::vector<harness::TensorSpec> inputs_of(const Mamba3Case& c, Places& at) {
  std::vector<harness::TensorSpec> in;
  const auto add = [&](bool present, const char* name, std::vector<int> shape, Fill fill = Fill::normal()) {
    if (!present) return;
    at[name] = in.size();
    in.push_back({name, std::move(shape), fill});
  };
  const int H = c.heads, P = c.headdim, R = c.rank, N = c.state, A = angles_of(c);
  const int S = has(c, 'c') ? static_cast<int>(cu_of(c).size()) - 1 : c.batch;
  const std::vector<int> rows{c.batch, c.length, H, P}, matrix{c.batch, c.length, R, c.groups, N},
      head{c.batch, c.length, H}, bias{H, R, N}, mimo{H, R, P};
  // Upstream: dt = softplus(-3 + N(0, 1)), trap and angle U(0, 1), rank vectors N(0, 1) / R.
  const bool upstream = has(c, 'u');
  const Fill vectors = upstream ? Fill::normal(1.0 / R) : Fill::normal(),
             share = upstream ? Fill::uniform(0, 1) : Fill::normal();
  add(true, "x", rows);
  add(true, "B", matrix);
  add(true, "C", matrix);
  add(true, "dd_dt", head, Fill::normal(upstream ? 1 : 0.7));
  // Away from 0, where the second derivative of the activation jumps.
  add(true, "dd_A", head, Fill::uniform(0.1, 1));
  add(true, "trap", head, share);
  add(A > 0, "angle", {c.batch, c.length, A}, share);
  add(has(c, 'b'), "dt_bias", {H}, upstream ? Fill::uniform(-3.1, -2.9) : Fill::normal(0.3));
  add(has(c, 'n'), "B_norm_weight", {N}, Fill::uniform(0.5, 1.5));
  add(has(c, 'n'), "C_norm_weight", {N}, Fill::uniform(0.5, 1.5));
  add(has(c, 'b'), "B_bias", bias, Fill::uniform(0.5, 1.5));
  add(has(c, 'b'), "C_bias", bias, Fill::uniform(0.5, 1.5));
  add(has(c, 'D'), "D", {H});
  add(has(c, 'z'), "z", rows);
  add(has(c, 'm'), "mimo_x", mimo, vectors);
  add(has(c, 'm') && has(c, 'z'), "mimo_z", mimo);
  add(has(c, 'm'), "mimo_o", mimo, vectors);
  add(has(c, 'o'), "out_norm_weight", {H, P}, Fill::uniform(0.5, 1.5));
  add(has(c, 'i'), "angle_state", {S, H, A}, Fill::uniform(0, 6));
  add(has(c, 'i'), "ssm_state", {S, H, P, N});
  add(has(c, 'i'), "k_state", {S, R, H, N});
  add(has(c, 'i'), "v_state", {S, H, P});
  return in;
}

Tensors reference(const Mamba3Case& c, const Places& at, const Tensors& in) {
  kernel::Mamba3Reference<double> p;
  const std::vector<int32_t> cu = cu_of(c);
  const int S = cu.empty() ? c.batch : static_cast<int>(cu.size()) - 1;
  p.shape = {c.batch, c.length, c.heads, c.rank, c.headdim, c.state, angles_of(c), 1, cu.empty() ? 0 : S};
  p.groups = c.groups;
  p.pairs = has(c, 'h') ? kernel::RotaryPairs::kHalf : kernel::RotaryPairs::kAdjacent;
  p.softplus_A = has(c, 's');
  p.A_floor = 1e-4, p.eps = static_cast<double>(1e-5f);
  p.cu_seqlens = cu.data();
  const auto get = [&](const char* name) {
    const auto found = at.find(name);
    return found == at.end() ? nullptr : in[found->second].data.data();
  };
  p.x = get("x"), p.B = get("B"), p.C = get("C"), p.dd_dt = get("dd_dt"), p.dd_A = get("dd_A"),
  p.trap = get("trap");
  p.angle = get("angle"), p.dt_bias = get("dt_bias"), p.B_norm = get("B_norm_weight"),
  p.C_norm = get("C_norm_weight");
  p.B_bias = get("B_bias"), p.C_bias = get("C_bias"), p.D = get("D"), p.z = get("z");
  p.mimo_x = get("mimo_x"), p.mimo_z = get("mimo_z"), p.mimo_o = get("mimo_o"),
  p.out_norm = get("out_norm_weight");
  p.phi0 = get("angle_state"), p.h0 = get("ssm_state"), p.k0 = get("k_state"), p.v0 = get("v_state");
  Tensors out;
  const auto make = [&](std::vector<int> shape) {
    size_t n = 1;
    for (const int d : shape) n *= static_cast<size_t>(d);
    out.push_back({std::move(shape), std::vector<double>(n)});
  };
  make({c.batch, c.length, c.heads, c.headdim});
  make({S, c.heads, angles_of(c)});
  make({S, c.heads, c.headdim, c.state});
  make({S, c.rank, c.heads, c.state});
  make({S, c.heads, c.headdim});
  p.out = out[0].data.data(), p.phi = out[1].data.data(), p.h = out[2].data.data(), p.k = out[3].data.data();
  p.v = out[4].data.data();
  kernel::mamba3_reference(p);
  if (angles_of(c) == 0) out.erase(out.begin() + 1);
  return out;
}

harness::Arrays run(const Mamba3Case& c, const Places& at, const harness::Arrays& in) {
  const auto get = [&](const char* name) -> std::optional<mx::array> {
    const auto found = at.find(name);
    return found == at.end() ? std::nullopt : std::optional(in[found->second]);
  };
  Mamba3Options o;
  o.angle = get("angle"), o.dt_bias = get("dt_bias");
  o.B_norm_weight = get("B_norm_weight"), o.C_norm_weight = get("C_norm_weight");
  o.B_bias = get("B_bias"), o.C_bias = get("C_bias"), o.D = get("D"), o.z = get("z");
  o.mimo_x = get("mimo_x"), o.mimo_z = get("mimo_z"), o.mimo_o = get("mimo_o");
  o.out_norm_weight = get("out_norm_weight");
  o.pairing = has(c, 'h') ? RotaryPairing::kHalf : RotaryPairing::kAdjacent;
  o.A_activation = has(c, 's') ? AActivation::kSoftplus : AActivation::kHeavyTail;
  o.chunk_size = c.chunk;
  o.cu_seqlens = cu_of(c);
  if (has(c, 'i'))
    o.initial_state = Mamba3State{*get("angle_state"), *get("ssm_state"), *get("k_state"), *get("v_state")};
  const auto token = [](const mx::array& a) { return mx::squeeze(a, 1); };
  const auto whole = [&] { return mamba3_with_state(in[0], in[1], in[2], in[3], in[4], in[5], o); };
  const auto step = [&] {
    const Mamba3State before = *o.initial_state;
    o.initial_state.reset();
    if (o.angle) o.angle = token(*o.angle);
    if (o.z) o.z = token(*o.z);
    auto [y, next] =
        mamba3_step(before, token(in[0]), token(in[1]), token(in[2]), token(in[3]), token(in[4]), token(in[5]), o);
    return std::pair(mx::expand_dims(y, 1), next);
  };
  auto [out, state] = has(c, 't') ? step() : whole();
  harness::Arrays all{out, state.angle, state.ssm, state.k, state.v};
  if (angles_of(c) == 0) all.erase(all.begin() + 1);
  return all;
}

// Of the recurrence: 5 N P a token, head and rank (the decay once), 10 for its adjoint.
void set_costs(const Mamba3Case& c, harness::OpCase& plain) {
  const double heads = double(c.batch) * c.length * c.heads, rows = heads * c.headdim, R = c.rank;
  const double matrix = double(c.batch) * c.length * c.groups * c.state * R, gate = has(c, 'z') ? rows : 0;
  const double exps = heads * (4 + 2.0 * angles_of(c)) + gate * R;
  plain.forward = {(1 + 4 * R) * rows * c.state, exps, 4 * (2 * rows + gate + 3 * heads + 2 * matrix)};
  plain.backward = {(2 + 8 * R) * rows * c.state, exps, 8 * (2 * rows + gate + 3 * heads + 2 * matrix)};
}

// Makes every operator inside take its composed version while alive.
struct Composed {
  Composed() { ops::force_back_end(ops::BackEnd::kComposed); }
  ~Composed() { ops::force_back_end(std::nullopt); }
};

}  // namespace

harness::OpEntry mamba3_entry() {
  return {"mamba3",
          "Mamba-3, SISO and MIMO: trapezoid, rotation, data-dependent A",
          {"cpu", "composed"},
          true,
          true,
          [] {
            std::vector<harness::OpInstance> instances;
            std::vector<Mamba3Case> cases = kMamba3Cases;
            const auto grid = mamba3_grid();
            cases.insert(cases.end(), grid.begin(), grid.end());
            for (const Mamba3Case& c : cases) {
              Places at;
              harness::OpCase plain;
              const auto part = [](const char* letter, int value) { return letter + std::to_string(value); };
              plain.name = (c.grid.empty() ? "" : c.grid + " ") + part("B", c.batch) + part(" L", c.length) +
                           part(" H", c.heads) + part(" P", c.headdim) + part(" R", c.rank) +
                           part(" G", c.groups) + part(" N", c.state) + (c.chunk ? part(" Q", c.chunk) : "") +
                           (c.options.empty() ? "" : " " + c.options);
              plain.uses = c.uses;
              plain.inputs = inputs_of(c, at);
              plain.reference = [c, at](const Tensors& in) { return reference(c, at, in); };
              set_costs(c, plain);
              // Phases are sums of turns: a float32 phase is off by L roundings
              // of up to 2 pi, and the gradients of angles and steps sum over them.
              plain.tolerance.forward = 1e-5;
              plain.tolerance.gradient = 1e-4;
              // One-sided angles over 2048 tokens: 2048 roundings of a phase below 2 pi turn the last key; 1.1e-5
              // seen.
              if (c.uses & harness::kLong) plain.tolerance.forward = 3e-5;
              instances.push_back({plain, [c, at](const harness::Arrays& in) { return run(c, at, in); },
                                   [c, at](const harness::Arrays& in) {
                                     const Composed scope;
                                     return run(c, at, in);
                                   }});
              // The oracle in double checks the gradients of large shapes too.
              if (c.uses & harness::kGrid) instances.back().composed = {};
            }
            return instances;
          }};
}

}  // namespace aspis
