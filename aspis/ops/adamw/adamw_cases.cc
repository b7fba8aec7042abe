#include "aspis/ops/adamw/adamw_cases.h"

#include <algorithm>

#include "aspis/ops/adamw/adamw.h"
#include "aspis/ops/adamw/cases.h"
#include "aspis/ops/adamw/kernel/reference.h"

namespace aspis {
namespace {

constexpr double kLr = 0.01;

// Inputs: p0, p1, g0, g1, m0, m1, v0, v1, norm. Outputs: p0, p1, m0, m1, v0, v1. The
// second parameter has no weight decay.
harness::OpInstance make_instance(const AdamWCase& c) {
  harness::OpCase plain;
  double elements = 2;
  for (const int d : c.shape) {
    plain.name += (plain.name.empty() ? "2 x " : "x") + std::to_string(d);
    elements *= d;
  }
  plain.name += ", step " + std::to_string(c.step) + (c.max_norm > 0 ? ", clipped" : "");
  plain.uses = c.uses;
  for (const char* name : {"p", "g", "m", "v"}) {
    for (const char* number : {"0", "1"}) {
      const auto fill = name[0] == 'v' ? harness::Fill::uniform(0.01, 1) : harness::Fill::normal();
      plain.inputs.push_back({std::string(name) + number, c.shape, fill, false});
    }
  }
  plain.inputs.push_back({"norm", {}, harness::Fill::constant(4), false});
  plain.reference = [c](const harness::Tensors& in) {
    harness::Tensors out{in[0], in[1], in[4], in[5], in[6], in[7]};
    const double norm = in[8].data[0];
    const double factor = c.max_norm > 0 ? std::min(1.0, c.max_norm / (norm + 1e-6)) : 1.0;
    for (size_t i = 0; i < 2; i++) {
      for (int64_t j = 0; j < in[i].size(); j++) {
        kernel::AdamWElement e{in[i].data[j], in[4 + i].data[j], in[6 + i].data[j]};
        e.step(factor * in[2 + i].data[j], kLr, c.step, i == 0, {});
        out[i].data[j] = e.p;
        out[2 + i].data[j] = e.m;
        out[4 + i].data[j] = e.v;
      }
    }
    return out;
  };
  plain.forward = {.flops = 15 * elements, .exps = 0, .bytes = 28 * elements};
  const auto control_of = [c](const harness::Arrays& a) {
    StepControl control;
    control.lr = kLr;
    control.step = c.step;
    control.norm = a[8];
    control.max_norm = c.max_norm;
    return control;
  };
  const auto outputs = [](const AdamWResult& r) {
    return harness::Arrays{r.params[0], r.params[1], r.m[0], r.m[1], r.v[0], r.v[1]};
  };
  return {plain,
          [=](const harness::Arrays& a) {
            return outputs(
                adamw({a[0], a[1]}, {a[2], a[3]}, {a[4], a[5]}, {a[6], a[7]}, {true, false}, {}, control_of(a)));
          },
          [=](const harness::Arrays& a) {
            return outputs(adamw_composed({a[0], a[1]}, {a[2], a[3]}, {a[4], a[5]}, {a[6], a[7]}, {true, false},
                                          {}, control_of(a)));
          }};
}

}  // namespace

harness::OpEntry adamw_entry() {
  return {"adamw",
          "AdamW step over all parameters, with clipping and guard",
          {"cpu", "composed"},
          false,
          false,
          [] {
            std::vector<harness::OpInstance> instances;
            for (const AdamWCase& c : kAdamWCases) instances.push_back(make_instance(c));
            return instances;
          },
          false};  // parameters and moments are masters in float32
}

}  // namespace aspis
