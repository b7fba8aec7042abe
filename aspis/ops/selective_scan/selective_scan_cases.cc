#include "aspis/ops/selective_scan/selective_scan_cases.h"

#include "aspis/ops/selective_scan/cases.h"
#include "aspis/ops/selective_scan/composed.h"
#include "aspis/ops/selective_scan/kernel/reference.h"
#include "aspis/ops/selective_scan/selective_scan.h"

namespace aspis {
namespace {

using harness::Fill;
using harness::Tensor;
using harness::Tensors;

bool has(const ScanCase& c, char option) { return c.options.find(option) != std::string::npos; }

// Place of each optional input among the inputs of a case, -1 if absent.
struct Places {
  int D = -1, z = -1, bias = -1, initial = -1, order = -1;
};

std::vector<harness::TensorSpec> inputs_of(const ScanCase& c, Places& at) {
  const std::vector<int> rows = {c.batch, c.length, c.channels};
  const auto matrix = [&](char constant) {
    return has(c, constant) ? std::vector<int>{c.channels, c.state} : std::vector<int>{c.batch, c.length, c.groups, c.state};
  };
  // Ranges of the upstream test: A = -U(0.1, 1), steps of 0.05 to 0.5.
  std::vector<harness::TensorSpec> in = {
      {"u", rows},
      {"delta", rows, has(c, 's') ? Fill::normal(1) : Fill::uniform(0.05, 0.5)},
      {"A", {c.channels, c.state}, Fill::uniform(-1, -0.1)},
      {"B", matrix('B')},
      {"C", matrix('C')}};
  const auto add = [&](char option, int& place, harness::TensorSpec spec) {
    if (!has(c, option)) return;
    place = static_cast<int>(in.size());
    in.push_back(std::move(spec));
  };
  add('D', at.D, {"D", {c.channels}});
  add('z', at.z, {"z", rows});
  add('b', at.bias, {"delta_bias", {c.channels}, Fill::uniform(-0.5, 0.5)});
  add('i', at.initial, {"initial_state", {c.batch, c.channels, c.state}});
  add('o', at.order, {"order", {c.length}, Fill::permutation(), false});
  return in;
}

Tensors reference(const ScanCase& c, const Places& at, const Tensors& in) {
  kernel::ScanParams<double> p;
  p.shape = {c.batch, c.length, c.channels, c.state, c.groups};
  p.softplus = has(c, 's'), p.reverse = has(c, 'r');
  const int64_t token = c.channels, batch = int64_t{c.length} * c.channels;
  const auto rows = [&](int i) { return kernel::ScanRows<const double>{in[i].data.data(), batch, token}; };
  const auto matrix = [&](int i, bool constant) {
    const int64_t g = c.state, t = g * c.groups;
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
  Tensor last{{c.batch, c.channels, c.state}, std::vector<double>(int64_t{c.batch} * c.channels * c.state)};
  p.out = {out.data.data(), batch, token};
  p.last_state = last.data.data();
  kernel::scan_reference(p);
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
  return o;
}

// Counts of operators.md 6.1: multiply and add as one each, exponentials apart.
void set_costs(const ScanCase& c, harness::OpCase& plain) {
  const double rows = double(c.batch) * c.length * c.channels, states = rows * c.state;
  const double BC = double(c.batch) * c.length * c.groups * c.state;
  const double per_row = (has(c, 's') ? 2 : 0) + (has(c, 'z') ? 1 : 0);
  const double reads = has(c, 'z') ? 3 : 2;
  plain.forward = {6 * states + 12 * rows, states + per_row * rows, 4 * ((reads + 1) * rows + 2 * BC)};
  plain.backward = {19 * states + 25 * rows, states + per_row * rows, 4 * ((2 * reads + 1) * rows + 4 * BC + states / 8)};
}

}  // namespace

harness::OpEntry selective_scan_entry() {
  return {"selective_scan", "Mamba-1 scan: exp(dt A) x + dt B u, y = C x + D u, gated", {"cpu", "composed"}, true, true, [] {
            std::vector<harness::OpInstance> instances;
            for (const ScanCase& c : kScanCases) {
              Places at;
              harness::OpCase plain;
              plain.name = "B" + std::to_string(c.batch) + " L" + std::to_string(c.length) + " D" +
                           std::to_string(c.channels) + " N" + std::to_string(c.state) + " G" +
                           std::to_string(c.groups) + (c.options.empty() ? "" : " " + c.options);
              plain.uses = c.uses;
              plain.inputs = inputs_of(c, at);
              plain.reference = [c, at](const Tensors& in) { return reference(c, at, in); };
              set_costs(c, plain);
              // Sums over D, L and B of terms of both signs: the error of a sum
              // can exceed that of its terms relative to its largest element.
              plain.tolerance.gradient = 3e-5;
              instances.push_back({plain,
                                   [c, at](const harness::Arrays& in) {
                                     auto [out, last] = selective_scan_with_state(in[0], in[1], in[2], in[3], in[4],
                                                                                  options_of(c, at, in));
                                     return harness::Arrays{out, last};
                                   },
                                   [c, at](const harness::Arrays& in) {
                                     auto [out, last] = selective_scan_composed(in[0], in[1], in[2], in[3], in[4],
                                                                                options_of(c, at, in));
                                     return harness::Arrays{out, last};
                                   }});
            }
            return instances;
          }};
}

}  // namespace aspis
