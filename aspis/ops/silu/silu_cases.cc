#include "aspis/ops/silu/silu_cases.h"

#include "aspis/ops/silu/cases.h"
#include "aspis/ops/silu/kernel/reference.h"
#include "aspis/ops/silu/silu.h"

namespace aspis {

harness::OpEntry silu_entry() {
  return {
      "silu", "x sigmoid(x), elementwise", {"cpu", "composed"}, true, false, [] {
        std::vector<harness::OpInstance> instances;
        for (const SiluCase& c : kSiluCases) {
          harness::OpCase plain;
          double n = 1;
          for (const int d : c.shape) {
            plain.name += (plain.name.empty() ? "" : "x") + std::to_string(d);
            n *= d;
          }
          plain.uses = c.uses;
          plain.inputs = {{"x", c.shape, harness::Fill::normal(3)}};
          plain.reference = [](const harness::Tensors& in) {
            harness::Tensor y = in[0];
            kernel::silu_reference<double>({y.size(), in[0].data.data(), y.data.data()});
            return harness::Tensors{y};
          };
          plain.forward = {.flops = 4 * n, .exps = n, .bytes = 8 * n};
          plain.backward = {.flops = 8 * n, .exps = n, .bytes = 12 * n};
          instances.push_back({plain, [](const harness::Arrays& in) { return harness::Arrays{silu(in[0])}; },
                               [](const harness::Arrays& in) { return harness::Arrays{silu_composed(in[0])}; }});
        }
        return instances;
      }};
}

}  // namespace aspis
