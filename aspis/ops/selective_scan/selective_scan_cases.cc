#include "aspis/ops/selective_scan/selective_scan_cases.h"

#include <mlx/ops.h>

#include "aspis/ops/selective_scan/cases.h"
#include "aspis/ops/selective_scan/composed.h"
#include "aspis/ops/selective_scan/kernel/reference.h"
#include "aspis/ops/selective_scan/pairs.h"
#include "aspis/ops/selective_scan/selective_scan.h"

namespace aspis {
namespace {

using harness::Fill;
using harness::Tensor;
using harness::Tensors;

bool has(const ScanCase& c, char option) { return c.options.find(option) != std::string::npos; }

// Bounds of the packed cases: short, empty and long sequences, about 8 for long rows.
std::vector<int32_t> bounds_of(const ScanCase& c) {
  if (!has(c, 'p')) return {};
  std::vector<int32_t> bounds{0, 1, c.length / 3, c.length / 3};
  for (int i = 4; i < 8 && c.length > 64; i++) bounds.push_back(c.length * i / 9);
  bounds.push_back(c.length);
  return bounds;
}

int states_of(const ScanCase& c) { return has(c, 'p') ? static_cast<int>(bounds_of(c).size()) - 1 : c.batch; }

// Ids {B, L}: rows that begin with sequence 0, another one, or padding.
std::vector<int32_t> ids_of(const ScanCase& c) {
  std::vector<int32_t> ids;
  for (int b = 0; has(c, 'q') && b < c.batch; b++) {
    for (int t = 0; t < c.length; t++) {
      const int part = 3 * t / c.length;
      ids.push_back(b == 0 ? (part == 1 ? -1 : part / 2) : b == 1 ? (part == 0 ? 4 : 0) : part - 1);
    }
  }
  return ids;
}

// Values of a state: two a number for complex ones.
int values_of(const ScanCase& c) { return has(c, 'x') ? 2 * c.state : c.state; }

// Place of each optional input among the inputs of a case, -1 if absent.
struct Places {
  int D = -1, z = -1, bias = -1, initial = -1, order = -1;
};

std::vector<harness::TensorSpec> inputs_of(const ScanCase& c, Places& at) {
  const std::vector<int> rows = {c.batch, c.length, c.channels};
  const auto matrix = [&](char constant) {
    return has(c, constant) ? std::vector<int>{c.channels, values_of(c)}
                            : std::vector<int>{c.batch, c.length, c.groups, values_of(c)};
  };
  // Upstream's own ranges are A = -U(0, 0.5), delta and bias U(0, 0.5).
  const bool upstream = has(c, 'u');
  const Fill delta = upstream ? Fill::uniform(0, 0.5) : has(c, 's') ? Fill::normal(1) : Fill::uniform(0.05, 0.5);
  std::vector<harness::TensorSpec> in = {
      {"u", rows},
      {"delta", rows, delta},
      {"A", {c.channels, values_of(c)}, Fill::uniform(upstream ? -0.5 : -1, upstream ? 0 : -0.1)},
      {"B", matrix('B')},
      {"C", matrix('C')}};
  const auto add = [&](char option, int& place, harness::TensorSpec spec) {
    if (!has(c, option)) return;
    place = static_cast<int>(in.size());
    in.push_back(std::move(spec));
  };
  add('D', at.D, {"D", {c.channels}});
  add('z', at.z, {"z", rows});
  add('b', at.bias, {"delta_bias", {c.channels}, Fill::uniform(upstream ? 0 : -0.5, 0.5)});
  add('i', at.initial, {"initial_state", {states_of(c), c.channels, values_of(c)}});
  add('o', at.order, {"order", {c.length}, Fill::permutation(), false});
  return in;
}

Tensors reference(const ScanCase& c, const Places& at, const Tensors& in) {
  kernel::ScanParams<double> p;
  p.shape = {c.batch, c.length, c.channels, values_of(c), c.groups};
  p.pairs = has(c, 'x');
  p.softplus = has(c, 's'), p.reverse = has(c, 'r');
  const int64_t token = c.channels, batch = int64_t{c.length} * c.channels;
  const auto rows = [&](int i) { return kernel::ScanRows<const double>{in[i].data.data(), batch, token}; };
  const auto matrix = [&](int i, bool constant) {
    const int64_t g = values_of(c), t = g * c.groups;
    return kernel::ScanMatrix<const double>{in[i].data.data(), constant, t * c.length, t, g};
  };
  p.u = rows(0), p.delta = rows(1), p.A = in[2].data.data();
  p.B = matrix(3, has(c, 'B')), p.C = matrix(4, has(c, 'C'));
  if (at.D >= 0) p.D = in[at.D].data.data();
  if (at.z >= 0) p.z = rows(at.z);
  if (at.bias >= 0) p.delta_bias = in[at.bias].data.data();
  if (at.initial >= 0) p.initial_state = in[at.initial].data.data();
  std::vector<int32_t> order;
  if (at.order >= 0) {
    order.assign(in[at.order].data.begin(), in[at.order].data.end());
    p.order = order.data();
  }
  Tensor out{in[0].shape, std::vector<double>(in[0].data.size())};
  const int64_t state = int64_t{c.channels} * values_of(c);
  Tensor last{{states_of(c), c.channels, values_of(c)}, std::vector<double>(states_of(c) * state)};
  p.out = {out.data.data(), batch, token};
  p.last_state = last.data.data();
  if (!has(c, 'p') && !has(c, 'q')) {
    kernel::scan_reference(p);
    return {out, last};
  }
  // Every sequence on its own: tokens [first, end) of row b.
  const auto one = [&](int64_t b, int64_t first, int64_t end, int64_t initial, int64_t into) {
    kernel::ScanParams<double> q = p;
    q.shape.batch = 1, q.shape.length = end - first;
    q.u.data = p.u.row(b, first), q.delta.data = p.delta.row(b, first), q.out.data = p.out.row(b, first);
    if (p.z) q.z.data = p.z.row(b, first);
    if (!p.B.constant) q.B.data = p.B.row(b, first, 0);
    if (!p.C.constant) q.C.data = p.C.row(b, first, 0);
    q.initial_state = p.initial_state && initial >= 0 ? p.initial_state + initial * state : nullptr;
    q.last_state = into >= 0 ? last.data.data() + into * state : nullptr;
    kernel::scan_reference(q);
  };
  const auto bounds = bounds_of(c);
  for (size_t i = 0; i + 1 < bounds.size(); i++) {
    one(0, bounds[i], bounds[i + 1], static_cast<int64_t>(i), static_cast<int64_t>(i));
  }
  const auto ids = ids_of(c);
  for (int64_t b = 0; !ids.empty() && b < c.batch; b++) {
    const int32_t* row = ids.data() + b * c.length;
    for (int64_t first = 0, end = 0; first < c.length; first = end) {
      while (end < c.length && row[end] == row[first]) end++;
      if (row[first] < 0) continue;
      const int64_t begins = p.reverse ? c.length - end : first, ends = p.reverse ? first : c.length - end;
      one(b, first, end, begins == 0 && row[first] == 0 ? b : -1, ends == 0 ? b : -1);
    }
  }
  return {out, last};
}

ScanOptions options_of(const ScanCase& c, const Places& at, const harness::Arrays& in) {
  ScanOptions o;
  o.delta_softplus = has(c, 's'), o.reverse = has(c, 'r');
  if (at.D >= 0) o.D = in[at.D];
  if (at.z >= 0) o.z = in[at.z];
  if (at.bias >= 0) o.delta_bias = in[at.bias];
  if (at.initial >= 0) o.initial_state = in[at.initial];
  if (at.order >= 0) o.order = in[at.order];
  o.cu_seqlens = bounds_of(c);
  if (const auto ids = ids_of(c); !ids.empty()) o.seq_idx = mx::array(ids.data(), {c.batch, c.length}, mx::int32);
  return o;
}

// One token by the step, which has no axis for it.
harness::Arrays step(const ScanCase& c, const Places& at, const harness::Arrays& in) {
  ScanOptions o = options_of(c, at, in);
  const auto token = [](const mx::array& a) { return mx::squeeze(a, 1); };
  o.initial_state.reset();
  if (o.z) o.z = token(*o.z);
  auto [out, next] =
      selective_scan_step(in[at.initial], token(in[0]), token(in[1]), in[2], has(c, 'B') ? in[3] : token(in[3]),
                          has(c, 'C') ? in[4] : token(in[4]), o);
  return {mx::expand_dims(out, 1), next};
}

// Counts of operators.md 6.1: multiply and add as one each, exponentials apart.
void set_costs(const ScanCase& c, harness::OpCase& plain) {
  const double rows = double(c.batch) * c.length * c.channels, states = rows * c.state;
  const double BC = double(c.batch) * c.length * c.groups * c.state;
  const double per_row = (has(c, 's') ? 2 : 0) + (has(c, 'z') ? 1 : 0);
  const double reads = has(c, 'z') ? 3 : 2;
  if (has(c, 'x')) {
    // dt A 2; the product a x + b 10; 2 Re(C x) 4; a = an exponential, a sine and a cosine.
    plain.forward = {16 * states + 12 * rows, 3 * states + per_row * rows, 4 * ((reads + 1) * rows + 4 * BC)};
    plain.backward = {56 * states + 25 * rows, 3 * states + per_row * rows,
                      4 * ((2 * reads + 1) * rows + 8 * BC + states / 4)};
    return;
  }
  plain.forward = {6 * states + 12 * rows, states + per_row * rows, 4 * ((reads + 1) * rows + 2 * BC)};
  plain.backward = {19 * states + 25 * rows, states + per_row * rows,
                    4 * ((2 * reads + 1) * rows + 4 * BC + states / 8)};
}

}  // namespace

harness::OpEntry selective_scan_entry() {
  return {"selective_scan",
          "Mamba-1 scan: exp(dt A) x + dt B u, y = C x + D u, gated",
          {"cpu", "composed"},
          true,
          true,
          [] {
            std::vector<harness::OpInstance> instances;
            std::vector<ScanCase> cases = kScanCases;
            const auto grid = scan_grid();
            cases.insert(cases.end(), grid.begin(), grid.end());
            for (const ScanCase& c : cases) {
              Places at;
              harness::OpCase plain;
              plain.name = (c.grid.empty() ? "" : c.grid + " ") + "B" + std::to_string(c.batch) + " L" +
                           std::to_string(c.length) + " D" + std::to_string(c.channels) + " N" +
                           std::to_string(c.state) + " G" + std::to_string(c.groups) +
                           (c.options.empty() ? "" : " " + c.options);
              plain.uses = c.uses;
              plain.inputs = inputs_of(c, at);
              plain.reference = [c, at](const Tensors& in) { return reference(c, at, in); };
              set_costs(c, plain);
              // Sums over D, L and B of terms of both signs: the error of a sum
              // can exceed that of its terms relative to its largest element.
              plain.tolerance.gradient = 3e-5;
              // Upstream's decays are slow and its sequences long: 1.2e-6 with fused multiply-adds, 3.2e-6 without
              // (SSE4).
              if (c.uses & harness::kGrid) plain.tolerance.forward = 5e-6;
              if (has(c, 't')) {
                instances.push_back({plain, [c, at](const harness::Arrays& in) { return step(c, at, in); }, {}});
                continue;
              }
              instances.push_back(
                  {plain,
                   [c, at](const harness::Arrays& in) {
                     const auto scan = has(c, 'x') ? selective_scan_pairs : selective_scan_with_state;
                     auto [out, last] =
                         scan(in[0], in[1], in[2], in[3], in[4], options_of(c, at, in), mx::StreamOrDevice{});
                     return harness::Arrays{out, last};
                   },
                   [c, at](const harness::Arrays& in) {
                     const auto scan = has(c, 'x') ? selective_scan_pairs_composed : selective_scan_composed;
                     auto [out, last] =
                         scan(in[0], in[1], in[2], in[3], in[4], options_of(c, at, in), mx::StreamOrDevice{});
                     return harness::Arrays{out, last};
                   }});
              // A graph of thousands of tokens is no oracle: that one is in double and checks the gradients too.
              if (c.uses & harness::kGrid) instances.back().composed = {};
            }
            return instances;
          }};
}

}  // namespace aspis
