// Times the kernels for several chunk lengths (0: the recurrence): GFLOP/s as 5 N P operations a
// token and head, and the gradient's time over the forward pass's.
//
//   aspis_ssd_bench [length] [heads] [headdim] [state]

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "aspis/base/clock.h"
#include "aspis/base/parallel.h"
#include "aspis/ops/ssd/kernel/test_problem.h"

using namespace aspis;
using namespace aspis::kernel;

int main(int argc, char** argv) {
  const auto argument = [&](int i, int64_t fallback) { return argc > i ? std::atoll(argv[i]) : fallback; };
  const int64_t length = argument(1, 2048), heads = argument(2, 24), P = argument(3, 64), N = argument(4, 128);
  for (const int threads : {1, 2}) {
    set_num_threads(threads);
    for (const int64_t chunk : {0, 32, 48, 64, 96, 128}) {
      ssd_test::Options o;
      o.z = o.D = o.bias = o.softplus = o.initial = false;
      SsdShape shape{1, length, heads, P, 1, N, chunk > 0 ? chunk : 64};
      shape.recurrent = chunk == 0;
      ssd_test::Problem<float> problem(shape, o);
      ssd_test::Results<float> r;
      problem.run();
      auto p = problem.params(r);
      p.before_gate = nullptr;
      p.workspace = problem.forward_work.data();
      auto q = problem.vjp_params(p, r);
      q.in.states = problem.states.data();
      q.workspace = problem.backward_work.data();
      double inference = 1e9, forward = 1e9, backward = 1e9;
      for (int i = 0; i < 15; i++) {
        double t = monotonic_seconds();
        ssd(p);
        inference = std::min(inference, monotonic_seconds() - t);
        auto kept = p;
        kept.states = problem.states.data();
        t = monotonic_seconds();
        ssd(kept);
        forward = std::min(forward, monotonic_seconds() - t);
        t = monotonic_seconds();
        ssd_vjp(q);
        backward = std::min(backward, monotonic_seconds() - t);
      }
      const double flops = 5.0 * static_cast<double>(N * P * length * heads);
      std::printf(
          "%d threads, chunk %3ld: forward %7.2f ms %6.1f GFLOP/s, with states %7.2f ms, gradient %7.2f ms, ratio "
          "%.2f\n",
          threads, chunk, 1e3 * inference, flops / inference / 1e9, 1e3 * forward, 1e3 * backward,
          (forward + backward) / inference);
    }
  }
  return 0;
}
