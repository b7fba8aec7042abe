#pragma once

#include <cstdint>
#include <type_traits>

namespace aspis {

/// Cores this process may use: the affinity mask, capped by the cgroup's CPU
/// quota (v1 and v2). At least 1.
int available_cores();

/// Size of the one team behind `parallel_for`: what `set_num_threads` set, else
/// ASPIS_NUM_THREADS, else `available_cores()`.
int num_threads();

/// Cores that work is planned for where more tasks cost more work: ASPIS_PLAN_CORES,
/// else what `available_cores()` said first. The size of the team does not change
/// it, so that results do not depend on the number of threads.
int planned_cores();

/// Sets the team size; 0 goes back to the default. More threads than free cores
/// is the slowest setting there is.
void set_num_threads(int n);

namespace detail {
using TaskFn = void (*)(void* context, int64_t task, int worker);
void run_tasks(int64_t n, TaskFn fn, void* context);
}  // namespace detail

/// Runs task(i), or task(i, worker), for every i in [0, n) on the team and
/// returns when all are done. Flush-to-zero is on inside.
///
/// Split work by data size, never by the number of threads: which worker runs a
/// task is not fixed, so each output element must belong to one task. `worker`
/// in [0, num_threads()) only selects scratch memory. Inside another
/// parallel_for the tasks run one after the other. The first exception of a
/// task is thrown again here; tasks not yet begun are then skipped.
///
/// One thread of a process calls this at a time; others wait for their turn.
/// Loader threads decode without it.
template <typename F>
void parallel_for(int64_t n, F&& task) {
  using Fn = std::remove_reference_t<F>;
  detail::run_tasks(
      n,
      [](void* context, int64_t i, int worker) {
        Fn& f = *static_cast<Fn*>(context);
        if constexpr (std::is_invocable_v<Fn&, int64_t, int>) {
          f(i, worker);
        } else {
          f(i);
        }
      },
      const_cast<void*>(static_cast<const void*>(&task)));
}

/// Number of blocks of `block` items that cover `n`.
constexpr int64_t div_ceil(int64_t n, int64_t block) { return (n + block - 1) / block; }

}  // namespace aspis
