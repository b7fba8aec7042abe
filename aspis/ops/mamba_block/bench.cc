// The block in one against the separate operators: time of the perf cases, and
// the largest sum of the engine's buffers.
//
//   aspis_mamba_block_bench [threads] [seconds a case]

#include <mlx/compile.h>
#include <mlx/memory.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <cstdio>
#include <cstdlib>

#include "aspis/base/parallel.h"
#include "aspis/ops/harness/bounds.h"
#include "aspis/ops/mamba_block/mamba_block_cases.h"

using namespace aspis;
namespace mx = mlx::core;

namespace {

// Peak of the engine's memory over one evaluation with all gradients, in MB.
double peak(const harness::OpInstance& instance, bool composed) {
  harness::Arrays inputs;
  for (size_t i = 0; i < instance.plain.inputs.size(); i++) {
    const auto& spec = instance.plain.inputs[i];
    inputs.push_back(harness::to_array(harness::make_inputs(instance.plain, 1, true)[i], spec, mx::float32));
  }
  mx::eval(inputs);
  const auto& fn = composed ? instance.composed : instance.op;
  const auto loss = [&](const harness::Arrays& a) -> mx::array { return mx::sum(fn(a)[0]); };
  std::vector<int> all;
  for (int i = 0; i < static_cast<int>(inputs.size()); i++) all.push_back(i);
  mx::clear_cache();
  mx::reset_peak_memory();
  const auto before = mx::get_active_memory();
  const std::function<mx::array(const harness::Arrays&)> scalar = loss;
  auto [value, gradients] = mx::value_and_grad(scalar, all)(inputs);
  gradients.push_back(value);
  mx::eval(gradients);
  return static_cast<double>(mx::get_peak_memory() - before) * 1e-6;
}

}  // namespace

int main(int argc, char** argv) {
  mx::disable_compile();
  mx::set_cache_limit(size_t{1} << 30);
  set_num_threads(argc > 1 ? std::atoi(argv[1]) : available_cores());
  const double seconds = argc > 2 ? std::atof(argv[2]) : 1;
  std::printf("%d threads, %.0f GFLOP/s\n", num_threads(), 1e-9 * harness::machine_bounds().fma_flops);
  const auto entry = mamba_block_entry();
  for (const auto& instance : entry.instances()) {
    if (!(instance.plain.uses & harness::kPerf)) continue;
    for (const bool composed : {true, false}) {
      const auto r = harness::measure_case(entry, instance, seconds, composed);
      std::printf("%-45s %-9s forward %7.2f ms (bound %.2f)   both %7.2f ms (bound %.2f)   %7.1f MB\n",
                  r.case_name.c_str(), composed ? "separate" : "in one", 1e3 * r.forward.best,
                  1e3 * r.forward_bound, 1e3 * r.forward_backward.best, 1e3 * r.forward_backward_bound,
                  peak(instance, composed));
    }
  }
}
