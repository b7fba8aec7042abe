// Times the core with its keys and queries, rank 1 (with skip and gate) and rank 4, beside the
// recurrence of Mamba-2 with skip and gate: milliseconds, and the time of an operation, counted as
// N P (1 + 4 R) a token and head forward and twice that for the gradient, over that of Mamba-2.
//
//   aspis_mamba3_bench [length] [heads] [headdim] [state] [repetitions]

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "aspis/base/clock.h"
#include "aspis/base/parallel.h"
#include "aspis/ops/mamba3/kernel/test_problem.h"
#include "aspis/ops/ssd/kernel/test_problem.h"

using namespace aspis;
using namespace aspis::kernel;

namespace {

template <typename F>
double best(int repetitions, const F& run) {
  double time = 1e9;
  for (int i = 0; i < repetitions; i++) {
    const double t = monotonic_seconds();
    run();
    time = std::min(time, monotonic_seconds() - t);
  }
  return time;
}

struct Times {
  double forward, training, gradient;
};

void print(const char* name, int64_t rank, const Times& t, const Times& ssd) {
  const double per = 5.0 / static_cast<double>(1 + 4 * rank);
  const double both = t.training + t.gradient, ssd_both = ssd.training + ssd.gradient;
  std::printf(
      "  %-8s forward %7.2f ms, with states %7.2f, gradient %7.2f, ratio %.2f; to ssd per operation %.2f, both "
      "%.2f\n",
      name, 1e3 * t.forward, 1e3 * t.training, 1e3 * t.gradient, both / t.forward, per * t.forward / ssd.forward,
      per * both / ssd_both);
}

}  // namespace

int main(int argc, char** argv) {
  const auto argument = [&](int i, int64_t fallback) { return argc > i ? std::atoll(argv[i]) : fallback; };
  const int64_t length = argument(1, 2048), heads = argument(2, 24), P = argument(3, 64), N = argument(4, 128);
  const int times = static_cast<int>(argument(5, 10));
  for (const int threads : {1, 2}) {
    set_num_threads(threads);
    std::printf("%d threads\n", threads);
    ssd_test::Options o;
    o.initial = false;
    SsdShape shape{1, length, heads, P, 1, N, 64};
    shape.recurrent = true;
    ssd_test::Problem<float> problem(shape, o);
    ssd_test::Results<float> r;
    problem.run();
    auto p = problem.params(r);
    p.before_gate = nullptr;
    p.workspace = problem.forward_work.data();
    auto kept = problem.params(r);
    kept.workspace = problem.forward_work.data(), kept.states = problem.states.data();
    auto q = problem.vjp_params(kept, r);
    q.workspace = problem.backward_work.data();
    const Times ssd_times{best(times, [&] { ssd(p); }), best(times, [&] { ssd(kept); }),
                          best(times, [&] { ssd_vjp(q); })};
    print("ssd", 1, ssd_times, ssd_times);
    for (const int64_t rank : {1, 4}) {
      mamba3_test::Options options;
      options.D = true, options.z = rank == 1, options.scale = rank > 1;
      mamba3_test::Problem<float> m({1, length, heads, rank, P, N, N / 4, std::max<int64_t>(1, 64 / rank)},
                                    options);
      m.forward();
      print(rank == 1 ? "rank 1" : "rank 4", rank,
            {best(times, [&] { m.forward(false); }), best(times, [&] { m.forward(); }),
             best(times, [&] { m.backward(); })},
            ssd_times);
    }
  }
  return 0;
}
