#include "aspis/ops/ssd/ssd_cases.h"

#include <mlx/ops.h>

#include "aspis/ops/ssd/cases.h"
#include "aspis/ops/ssd/composed.h"
#include "aspis/ops/ssd/kernel/reference.h"
#include "aspis/ops/ssd/ssd.h"

namespace aspis {
namespace {

using harness::Fill;
using harness::Tensor;
using harness::Tensors;

bool has(const SsdCase& c, char option) { return c.options.find(option) != std::string::npos; }

// Place of each optional input among the inputs of a case, -1 if absent.
struct Places {
  int D = -1, z = -1, bias = -1, initial = -1, ids = -1;
};

std::vector<int32_t> cu_of(const SsdCase& c) {
  if (has(c, 'v')) return ssd_varlen_bounds();
  if (!has(c, 'c')) return {};
  // Three sequences, the second one empty, and a last one.
  const int first = c.length / 3;
  return {0, first, first, c.length - 1, c.length};
}

constexpr double kLow = 0.3, kHigh = 0.8;  // dt limits of 'l'

std::vector<harness::TensorSpec> inputs_of(const SsdCase& c, Places& at) {
  const std::vector<int> rows = {c.batch, c.length, c.heads, c.headdim},
                         matrix = {c.batch, c.length, c.groups, c.state};
  const Fill dt = has(c, 'w') || has(c, 'W') ? Fill::log_uniform(1e-3, 0.1)
                  : has(c, 's')              ? Fill::normal(0.7)
                                             : Fill::uniform(0.01, 0.3);
  std::vector<harness::TensorSpec> in = {{"x", rows},
                                         {"dt", {c.batch, c.length, c.heads}, dt},
                                         {"A",
                                          {c.heads},
                                          has(c, 'w')   ? Fill::constant(-1)
                                          : has(c, 'W') ? Fill::constant(-16)
                                                        : Fill::uniform(-1, -0.1)},
                                         {"B", matrix},
                                         {"C", matrix}};
  const auto add = [&](bool present, int& place, harness::TensorSpec spec) {
    if (!present) return;
    place = static_cast<int>(in.size());
    in.push_back(std::move(spec));
  };
  const bool packed = has(c, 'c') || has(c, 'v');
  const int states = packed ? static_cast<int>(cu_of(c).size()) - 1 : c.batch;
  add(has(c, 'D'), at.D, {"D", {c.heads}});
  add(has(c, 'd'), at.D, {"D", {c.heads, c.headdim}});
  add(has(c, 'z'), at.z, {"z", rows});
  add(has(c, 'b'), at.bias, {"dt_bias", {c.heads}, Fill::uniform(-0.5, 0.5)});
  add(has(c, 'i'), at.initial, {"initial_state", {states, c.heads, c.headdim, c.state}});
  add(has(c, 'q'), at.ids, {"seq_idx", {c.batch, c.length}, Fill::labels(2), false});
  return in;
}

Tensors reference(const SsdCase& c, const Places& at, const Tensors& in) {
  kernel::SsdParams<double> p;
  const std::vector<int32_t> cu = cu_of(c);
  p.shape = {c.batch,  c.length, c.heads, c.headdim,
             c.groups, c.state,  1,       static_cast<int64_t>(cu.size()) - !cu.empty()};
  p.softplus = has(c, 's');
  if (has(c, 'l')) p.dt_min = kLow, p.dt_max = kHigh;
  const auto rows = [&](int i, int64_t heads, int64_t last) {
    return kernel::SsdRows<const double>{in[i].data.data(), c.length * heads * last, heads * last, last};
  };
  p.x = rows(0, c.heads, c.headdim), p.B = rows(3, c.groups, c.state), p.C = rows(4, c.groups, c.state);
  p.dt = in[1].data.data(), p.A = in[2].data.data();
  if (at.D >= 0) p.D = in[at.D].data.data(), p.channel_D = has(c, 'd');
  if (at.z >= 0) p.z = rows(at.z, c.heads, c.headdim);
  if (at.bias >= 0) p.dt_bias = in[at.bias].data.data();
  if (at.initial >= 0) p.initial_state = in[at.initial].data.data();
  std::vector<int32_t> ids;
  if (at.ids >= 0) {
    ids.assign(in[at.ids].data.begin(), in[at.ids].data.end());
    p.seq_idx = ids.data();
  }
  if (!cu.empty()) p.cu_seqlens = cu.data();
  Tensor out{in[0].shape, std::vector<double>(in[0].data.size())};
  const int states = static_cast<int>(p.shape.rows());
  Tensor last{{states, c.heads, c.headdim, c.state},
              std::vector<double>(static_cast<size_t>(states) * c.heads * c.headdim * c.state)};
  p.out = out.data.data();
  p.final_state = last.data.data();
  kernel::ssd_reference(p);
  return {out, last};
}

SsdOptions options_of(const SsdCase& c, const Places& at, const harness::Arrays& in) {
  SsdOptions o;
  o.dt_softplus = has(c, 's');
  o.chunk_size = c.chunk;
  if (has(c, 'l')) o.dt_limit = {kLow, kHigh};
  if (at.D >= 0) o.D = in[at.D];
  if (at.z >= 0) o.z = in[at.z];
  if (at.bias >= 0) o.dt_bias = in[at.bias];
  if (at.initial >= 0) o.initial_state = in[at.initial];
  if (at.ids >= 0) o.seq_idx = in[at.ids];
  o.cu_seqlens = cu_of(c);
  return o;
}

// One token by the step, which has no axis for it.
harness::Arrays step(const SsdCase& c, const Places& at, const harness::Arrays& in) {
  SsdOptions o = options_of(c, at, in);
  const auto token = [](const mx::array& a) { return mx::squeeze(a, 1); };
  o.initial_state.reset();
  if (o.z) o.z = token(*o.z);
  auto [out, next] = ssd_step(in[at.initial], token(in[0]), token(in[1]), in[2], token(in[3]), token(in[4]), o);
  return {mx::expand_dims(out, 1), next};
}

// 5 N P operations a token and head for the recurrence, 10 for its adjoint.
void set_costs(const SsdCase& c, harness::OpCase& plain) {
  const double heads = double(c.batch) * c.length * c.heads, rows = heads * c.headdim;
  const double matrix = double(c.batch) * c.length * c.groups * c.state, reads = has(c, 'z') ? 2 : 1;
  const double gate = has(c, 'z') ? rows : 0;
  plain.forward = {5 * rows * c.state, heads + gate, 4 * ((reads + 1) * rows + heads + 2 * matrix)};
  plain.backward = {10 * rows * c.state, heads + gate, 4 * ((2 * reads + 2) * rows + 2 * heads + 4 * matrix)};
}

}  // namespace

harness::OpEntry ssd_entry() {
  return {"ssd", "Mamba-2: exp(dt A) h + dt x (x) B, y = h C + D x, gated", {"cpu", "composed"}, true, true, [] {
            std::vector<harness::OpInstance> instances;
            std::vector<SsdCase> cases = kSsdCases;
            const auto grid = ssd_grid();
            cases.insert(cases.end(), grid.begin(), grid.end());
            for (const SsdCase& c : cases) {
              Places at;
              harness::OpCase plain;
              const auto part = [](const char* letter, int value) { return letter + std::to_string(value); };
              plain.name = (c.grid.empty() ? "" : c.grid + " ") + part("B", c.batch) + part(" L", c.length) +
                           part(" H", c.heads) + part(" P", c.headdim) + part(" G", c.groups) +
                           part(" N", c.state) + (c.chunk ? part(" Q", c.chunk) : "") +
                           (c.options.empty() ? "" : " " + c.options);
              plain.uses = c.uses;
              plain.inputs = inputs_of(c, at);
              plain.reference = [c, at](const Tensors& in) { return reference(c, at, in); };
              set_costs(c, plain);
              // Sums over P, L and B of terms of both signs: the error of a sum
              // can exceed that of its terms relative to its largest element.
              plain.tolerance.gradient = 3e-5;
              // The error of running sums of logarithms grows with chunk and decay: at 256 tokens and A = -16
              // operators.md 7.2 gives 3e-6 for chunks in float32.
              if (c.chunk >= 256) plain.tolerance.forward = 1e-5;
              if (has(c, 't')) {
                instances.push_back({plain, [c, at](const harness::Arrays& in) { return step(c, at, in); }, {}});
                continue;
              }
              instances.push_back({plain,
                                   [c, at](const harness::Arrays& in) {
                                     auto [out, last] =
                                         ssd_with_state(in[0], in[1], in[2], in[3], in[4], options_of(c, at, in));
                                     return harness::Arrays{out, last};
                                   },
                                   [c, at](const harness::Arrays& in) {
                                     auto [out, last] =
                                         ssd_composed(in[0], in[1], in[2], in[3], in[4], options_of(c, at, in));
                                     return harness::Arrays{out, last};
                                   }});
              // The oracle in double checks the gradients of large shapes too.
              if (c.uses & harness::kGrid) instances.back().composed = {};
            }
            return instances;
          }};
}

}  // namespace aspis
