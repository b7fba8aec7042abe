// Attention of the perf cases beside the bound of the machine, in float32 and
// bfloat16, and windows in place beside partition, attention and the way back.
//
//   aspis_attention_bench [threads] [seconds a case]

#include <mlx/compile.h>
#include <mlx/memory.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <cstdio>
#include <cstdlib>

#include "aspis/base/parallel.h"
#include "aspis/ops/attention/attention.h"
#include "aspis/ops/attention/attention_cases.h"
#include "aspis/ops/attention/cases.h"
#include "aspis/ops/harness/bounds.h"

using namespace aspis;
namespace mx = mlx::core;

namespace {

// What a model does around attention without the windowed form; `side` divides the map or padding is masked.
mx::array by_partition(const harness::Arrays& a, int side) {
  const int B = a[0].shape(0), Y = a[0].shape(1), X = a[0].shape(2), H = a[0].shape(3), D = a[0].shape(4);
  const int rows = (Y + side - 1) / side, columns = (X + side - 1) / side;
  const bool padded = rows * side != Y || columns * side != X;
  const auto cut = [&](mx::array x, int heads, int dim) {
    if (padded) {
      x = mx::pad(x, {{0, 0}, {0, rows * side - Y}, {0, columns * side - X}, {0, 0}, {0, 0}},
                  mx::array(0, x.dtype()));
    }
    x = mx::transpose(mx::reshape(x, {B, rows, side, columns, side, heads, dim}), {0, 1, 3, 2, 4, 5, 6});
    return mx::reshape(x, {B * rows * columns, side * side, heads, dim});
  };
  AttentionOptions options;
  if (padded) {
    const auto real = cut(mx::ones({B, Y, X, 1, 1}), 1, 1);
    options.mask = mx::reshape(mx::greater(real, mx::array(0.5f)), {B * rows * columns, 1, 1, side * side});
  }
  auto o = attention(cut(a[0], H, D), cut(a[1], H, D), cut(a[2], H, D), options);
  o = mx::transpose(mx::reshape(o, {B, rows, columns, side, side, H, D}), {0, 1, 3, 2, 4, 5, 6});
  o = mx::reshape(o, {B, rows * side, columns * side, H, D});
  return padded ? mx::slice(o, {0, 0, 0, 0, 0}, {B, Y, X, H, D}) : o;
}

void print(const char* name, const harness::PerfResult& r) {
  std::printf("  %-40s %-9s forward %7.2f ms, %.2f of %s", r.case_name.c_str(), name, 1e3 * r.forward.best,
              r.forward_bound / r.forward.best, r.forward_limit.c_str());
  std::printf("   both %7.2f ms, %.2f\n", 1e3 * r.forward_backward.best,
              r.forward_backward_bound / r.forward_backward.best);
}

}  // namespace

int main(int argc, char** argv) {
  mx::disable_compile();
  mx::set_cache_limit(size_t{1} << 30);
  set_num_threads(argc > 1 ? std::atoi(argv[1]) : available_cores());
  const double seconds = argc > 2 ? std::atof(argv[2]) : 1;
  std::printf("%d threads, %.0f GFLOP/s\n", num_threads(), 1e-9 * harness::machine_bounds().fma_flops);
  for (const auto& entry : {attention_entry(), window_attention_entry()}) {
    std::printf("%s\n", entry.name.c_str());
    for (auto& instance : entry.instances()) {
      if (!(instance.plain.uses & harness::kPerf)) continue;
      print("float32", harness::measure_case(entry, instance, seconds));
      print("bfloat16", harness::measure_case(entry, instance, seconds, false, mx::bfloat16));
    }
  }
  std::printf("windows by partition\n");
  const auto entry = window_attention_entry();
  auto instances = entry.instances();
  for (size_t i = 0; i < instances.size(); i++) {
    if (!(instances[i].plain.uses & harness::kPerf)) continue;
    const int side = kWindowAttentionCases[i].side;
    instances[i].op = [side](const harness::Arrays& a) { return harness::Arrays{by_partition(a, side)}; };
    print("float32", harness::measure_case(entry, instances[i], seconds));
  }
}
