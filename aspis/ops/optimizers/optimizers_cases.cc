#include "aspis/ops/optimizers/optimizers_cases.h"

#include <algorithm>
#include <numeric>

#include "aspis/ops/adamw/kernel/reference.h"
#include "aspis/ops/optimizers/cases.h"
#include "aspis/ops/optimizers/kernel/reference.h"

namespace aspis {
namespace {

constexpr double kLr = 0.01;

// One step from given states in double.
void reference_step(const OptimizersCase& c, kernel::OptimizerArray& a, const std::vector<double>& g) {
  const OptimizerRule& r = c.rule;
  switch (r.kind) {
    case OptimizerKind::kSgd:
      return a.step(g, kLr, c.step, kernel::SgdConstants{r.beta1, r.nesterov, r.weight_decay});
    case OptimizerKind::kLion:
      return a.step(g, kLr, c.step, kernel::LionConstants{r.beta1, r.beta2, r.weight_decay});
    case OptimizerKind::kLamb:
      return a.step(g, kLr, c.step, kernel::LambConstants{r.beta1, r.beta2, r.eps, r.weight_decay});
    case OptimizerKind::kMuon: {
      kernel::MuonConstants m;
      m.momentum = r.beta1;
      m.nesterov = r.nesterov;
      m.weight_decay = r.weight_decay;
      m.eps = r.eps;
      m.steps = r.iterations;
      m.original = r.original_factor;
      return a.step(g, kLr, c.step, m);
    }
    case OptimizerKind::kAdamW:
      for (size_t i = 0; i < g.size(); i++) {
        kernel::AdamWElement e{a.p[i], a.m[i], a.v[i]};
        e.step(g[i], kLr, c.step, a.decay, {r.beta1, r.beta2, r.eps, r.weight_decay});
        a.p[i] = e.p;
        a.m[i] = e.m;
        a.v[i] = e.v;
      }
  }
}

// Inputs: p0, p1, g0, g1, a0, a1, m0, m1, (v0, v1), norm. Outputs: p0, p1, a0, a1,
// m0, m1, (v0, v1). The second parameter has no weight decay; a is its moving average.
harness::OpInstance make_instance(const OptimizersCase& c) {
  harness::OpCase plain;
  const int states = state_count(c.rule.kind);
  double elements = 2;
  std::string size;
  for (const int d : c.shape) {
    size += (size.empty() ? "" : "x") + std::to_string(d);
    elements *= d;
  }
  plain.name = std::string(to_string(c.rule.kind)) + " 2 x " + size + ", step " + std::to_string(c.step);
  if (c.max_norm > 0) plain.name += ", clipped";
  plain.uses = c.uses;
  for (const char* name : {"p", "g", "a", "m", "v"}) {
    if (name[0] == 'v' && states < 2) continue;
    for (const char* number : {"0", "1"}) {
      const auto fill = name[0] == 'v' ? harness::Fill::uniform(0.01, 1) : harness::Fill::normal();
      plain.inputs.push_back({std::string(name) + number, c.shape, fill, false});
    }
  }
  plain.inputs.push_back({"norm", {}, harness::Fill::constant(4), false});
  plain.reference = [c, states](const harness::Tensors& in) {
    harness::Tensors out{in[0], in[1], in[4], in[5], in[6], in[7]};
    if (states == 2) out.insert(out.end(), {in[8], in[9]});
    const double norm = in.back().data[0];
    const double factor = c.max_norm > 0 ? std::min(1.0, c.max_norm / (norm + 1e-6)) : 1.0;
    for (size_t i = 0; i < 2; i++) {
      kernel::OptimizerArray a(in[i].data, c.shape[0], i == 0);
      a.m = in[6 + i].data;
      if (states == 2) a.v = in[8 + i].data;
      std::vector<double> g = in[2 + i].data;
      for (double& x : g) x *= factor;
      reference_step(c, a, g);
      out[i].data = a.p;
      for (size_t j = 0; j < g.size(); j++) out[2 + i].data[j] = 0.75 * in[4 + i].data[j] + 0.25 * a.p[j];
      out[4 + i].data = a.m;
      if (states == 2) out[6 + i].data = a.v;
    }
    return out;
  };
  // Products of Muon: X X^T, G G and G X for each of its steps.
  const double m = std::min<double>(c.shape[0], elements / 2 / c.shape[0]), n = elements / 2 / m;
  const double products =
      c.rule.kind == OptimizerKind::kMuon ? 2 * c.rule.iterations * (4 * m * m * n + 2 * m * m * m) : 0;
  plain.forward = {.flops = 15 * elements + products, .exps = 0, .bytes = 4.0 * (5 + 2 * states) * elements};
  if (c.rule.kind == OptimizerKind::kLamb) plain.forward.bytes += 12 * elements;  // p, m and v once more
  // The iteration enlarges the rounding of small singular values, see kernel/cpu_test.cc.
  if (c.rule.kind == OptimizerKind::kMuon) plain.tolerance.forward = 2e-5;
  const auto control_of = [c](const harness::Arrays& a) {
    StepControl control;
    control.lr = kLr;
    control.step = c.step;
    control.norm = a.back();
    control.max_norm = c.max_norm;
    control.averages = {a[4], a[5]};
    control.average_decay = 0.75;
    return control;
  };
  const auto states_of = [states](const harness::Arrays& a) {
    std::vector<harness::Arrays> lists{{a[6], a[7]}};
    if (states == 2) lists.push_back({a[8], a[9]});
    return lists;
  };
  const auto outputs = [](const OptimizerResult& r) {
    harness::Arrays out{r.params[0], r.params[1], r.averages[0], r.averages[1]};
    for (const auto& list : r.states) out.insert(out.end(), list.begin(), list.end());
    return out;
  };
  return {plain,
          [=](const harness::Arrays& a) {
            return outputs(
                optimizer_step(c.rule, {a[0], a[1]}, {a[2], a[3]}, states_of(a), {true, false}, control_of(a)));
          },
          [=](const harness::Arrays& a) {
            return outputs(optimizer_step_composed(c.rule, {a[0], a[1]}, {a[2], a[3]}, states_of(a), {true, false},
                                                   control_of(a)));
          }};
}

}  // namespace

harness::OpEntry optimizers_entry() {
  return {"optimizers",
          "a step of AdamW, SGD, Lion, LAMB or Muon over all parameters",
          {"cpu", "composed"},
          false,
          false,
          [] {
            std::vector<harness::OpInstance> instances;
            for (const OptimizersCase& c : kOptimizersCases) instances.push_back(make_instance(c));
            return instances;
          },
          false};  // parameters and moments are masters in float32
}

}  // namespace aspis
