// Time of a product of one row with a quantised weight that no cache holds,
// beside that of reading as many bytes: the share of the bandwidth.
//
//   aspis_quantized_bench [threads]

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <vector>

#include "aspis/base/clock.h"
#include "aspis/base/parallel.h"
#include "aspis/ops/quantized/kernel/cpu.h"

namespace {

template <typename F>
double best_of(int runs, const F& f) {
  double best = 1e9;
  for (int i = 0; i < runs; i++) {
    const double start = aspis::monotonic_seconds();
    f();
    best = std::min(best, aspis::monotonic_seconds() - start);
  }
  return best;
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : aspis::available_cores();
  aspis::set_num_threads(threads);
  const int64_t in = 4096, out = 4096 * 14;  // 235 M weights
  std::vector<uint32_t> memory(static_cast<size_t>(in * out / 4), 1u);
  std::vector<uint32_t> sums(1024);
  const double read = best_of(8, [&] {
    const int64_t unit = static_cast<int64_t>(memory.size()) / 1024;
    aspis::parallel_for(1024, [&](int64_t i) {
      const uint32_t* const p = memory.data() + i * unit;
      sums[static_cast<size_t>(i)] = std::accumulate(p, p + unit, 0u);
    });
  });
  const double bandwidth = static_cast<double>(memory.size()) * 4 / read;
  std::printf("%d threads, reading %.1f GB/s\n", threads, bandwidth * 1e-9);
  for (const int bits : {8, 4}) {
    const aspis::kernel::QuantizedShape s{out, in, bits, 64};
    std::vector<float> scales(static_cast<size_t>(out * s.groups()), 0.01f), offsets = scales;
    std::vector<float> x(static_cast<size_t>(48 * in), 1.0f), y(static_cast<size_t>(48 * out));
    for (const int64_t rows : {1, 4, 48}) {
      std::vector<float> work(static_cast<size_t>(aspis::kernel::quantized_linear_workspace(s, rows)) + 1);
      const aspis::kernel::QuantizedLinearParams p{
          s, rows, x.data(), in, memory.data(), scales.data(), offsets.data(), nullptr, y.data(), work.data()};
      const double t = best_of(rows > 8 ? 2 : 8, [&] { aspis::kernel::quantized_linear(p); });
      const double bytes = static_cast<double>(out) *
                           (4.0 * static_cast<double>(s.words()) + 8.0 * static_cast<double>(s.groups()));
      std::printf(
          "int%d, %2ld rows: %8.2f ms, %5.1f GB/s of weights, share of the bandwidth %.2f, %6.1f GFLOP/s\n", bits,
          rows, t * 1e3, bytes / t * 1e-9, bytes / t / bandwidth,
          2e-9 * static_cast<double>(rows * in) * static_cast<double>(out) / t);
    }
  }
}
