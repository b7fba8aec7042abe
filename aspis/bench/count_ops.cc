// Runs one case of every operator, forward and with gradients, for a counter of
// instructions: under callgrind it dumps the counts of each, named
// "operator|case|pass" (tools/instructions.py reads them). Without callgrind it
// only says which cases those are.
//
//   aspis_count_ops [operator ...]

#include <mlx/mlx.h>

#include <algorithm>
#include <cstdio>
#include <string>

#include "aspis/base/parallel.h"
#include "aspis/ops/registry/registry.h"

#if __has_include(<valgrind/callgrind.h>)
#include <valgrind/callgrind.h>
#else
#define CALLGRIND_ZERO_STATS
#define CALLGRIND_DUMP_STATS_AT(name) static_cast<void>(name)
#endif

using namespace aspis;

namespace {

// The case with the most arithmetic among those that are checked everywhere:
// large enough to outweigh the way to the kernel, small enough for a simulator.
const harness::OpInstance* largest(const std::vector<harness::OpInstance>& instances) {
  const harness::OpInstance* best = nullptr;
  const auto cost = [](const harness::OpInstance& i) {
    return i.plain.forward.flops + 16 * i.plain.forward.exps + i.plain.forward.bytes;
  };
  for (const auto& i : instances) {
    if (!(i.plain.uses & harness::kCheck) || (i.plain.uses & harness::kFull)) continue;
    if (!best || cost(i) > cost(*best)) best = &i;
  }
  return best;
}

void count(const std::string& label, const std::function<void()>& run) {
  run();  // first use: tables, plans, the engine's buffers
  CALLGRIND_ZERO_STATS;
  run();
  CALLGRIND_DUMP_STATS_AT(label.c_str());
  std::printf("%s\n", label.c_str());
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  namespace mx = mlx::core;
  mx::set_default_device(mx::Device::cpu);
  mx::disable_compile();
  set_num_threads(1);
  const std::vector<std::string> wanted(argv + 1, argv + argc);
  for (const auto& entry : op_registry()) {
    if (!wanted.empty() && std::find(wanted.begin(), wanted.end(), entry.name) == wanted.end()) continue;
    const auto instances = entry.instances();
    const harness::OpInstance* instance = largest(instances);
    if (!instance) continue;
    const harness::OpCase& c = instance->plain;
    const auto tensors = harness::make_inputs(c, 1, true);
    harness::Arrays inputs;
    for (size_t i = 0; i < tensors.size(); i++)
      inputs.push_back(harness::to_array(tensors[i], c.inputs[i], mx::float32));
    mx::eval(inputs);
    harness::Arrays outputs = instance->op(inputs);
    mx::eval(outputs);
    count(entry.name + "|" + c.name + "|forward", [&] { mx::eval(instance->op(inputs)); });
    if (!entry.has_gradient) continue;
    std::vector<size_t> moved;
    harness::Arrays primals, cotangents;
    for (size_t i = 0; i < inputs.size(); i++) {
      if (!c.inputs[i].differentiable || c.inputs[i].fill.is_integer()) continue;
      moved.push_back(i);
      primals.push_back(inputs[i]);
    }
    for (const auto& o : outputs) cotangents.push_back(mx::ones(o.shape(), o.dtype()));
    mx::eval(cotangents);
    count(entry.name + "|" + c.name + "|both", [&] {
      const auto f = [&](const harness::Arrays& in) {
        harness::Arrays all = inputs;
        for (size_t k = 0; k < moved.size(); k++) all[moved[k]] = in[k];
        return instance->op(all);
      };
      auto [values, gradients] = mx::vjp(f, primals, cotangents);
      values.insert(values.end(), gradients.begin(), gradients.end());
      mx::eval(values);
    });
  }
  return 0;
}
