#include "aspis/ops/pscan/pscan_cases.h"

#include "aspis/ops/pscan/cases.h"
#include "aspis/ops/pscan/pscan.h"

namespace aspis {

harness::OpEntry pscan_entry() {
  return {
      "pscan", "A H + X along the tokens, elementwise (mamba.py's scan)", {"cpu", "composed"}, true, false, [] {
        std::vector<harness::OpInstance> instances;
        for (const PscanCase& c : kPscanCases) {
          harness::OpCase plain;
          double n = 1;
          for (const int d : c.shape) {
            plain.name += (plain.name.empty() ? "" : "x") + std::to_string(d);
            n *= d;
          }
          if (c.initial) plain.name += " + initial";
          plain.uses = c.uses;
          std::vector<int> rest = c.shape;
          rest.erase(rest.begin() + 1);
          plain.inputs = {{"A", c.shape, harness::Fill::uniform(0, 1)}, {"X", c.shape}};
          if (c.initial) plain.inputs.push_back({"initial", rest});
          plain.reference = [](const harness::Tensors& in) {
            harness::Tensor H = in[1];
            const int64_t L = H.shape[1], C = H.size() / (int64_t{H.shape[0]} * L);
            for (int64_t i = 0; i < H.size(); i++) {
              const int64_t b = i / (L * C), t = i / C % L, column = i % C;
              const double before = t > 0 ? H.data[i - C] : in.size() > 2 ? in[2].data[b * C + column] : 0;
              H.data[i] += in[0].data[i] * before;
            }
            return harness::Tensors{H};
          };
          plain.forward = {.flops = 2 * n, .exps = 0, .bytes = 12 * n};
          plain.backward = {.flops = 3 * n, .exps = 0, .bytes = 20 * n};
          const auto initial = [](const harness::Arrays& in) {
            return in.size() > 2 ? std::optional(in[2]) : std::nullopt;
          };
          instances.push_back(
              {plain,
               [initial](const harness::Arrays& in) { return harness::Arrays{pscan(in[0], in[1], initial(in))}; },
               [initial](const harness::Arrays& in) {
                 return harness::Arrays{pscan_composed(in[0], in[1], initial(in))};
               }});
        }
        return instances;
      }};
}

}  // namespace aspis
