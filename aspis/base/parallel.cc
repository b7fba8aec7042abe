#include "aspis/base/parallel.h"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iterator>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <unistd.h>
#if defined(__linux__)
#include <sched.h>
#endif

#include "aspis/base/cgroup.h"
#include "aspis/base/ftz.h"


namespace aspis {
namespace {

std::atomic<int> g_requested_threads{0};

int affinity_cores() {
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

int count_from_environment(const char* name) {
  const char* text = std::getenv(name);
  if (!text) return 0;
  int n = 0;
  const std::string s(text);
  const auto [end, ec] = std::from_chars(s.data(), s.data() + s.size(), n);
  return ec == std::errc() && end == s.data() + s.size() && n > 0 ? n : 0;
}

}  // namespace

int available_cores() {
  static const int cores = [] {
    int n = affinity_cores();
#if defined(__linux__)
    std::ifstream groups("/proc/self/cgroup");
    const std::string text{std::istreambuf_iterator<char>(groups), std::istreambuf_iterator<char>()};
    if (const double quota = cgroup_cores("/sys/fs/cgroup", text); quota > 0) {
      n = std::min(n, std::max(1, static_cast<int>(std::floor(quota + 0.5))));
    }
#endif
    return n;
  }();
  return cores;
}

int num_threads() {
  if (const int n = g_requested_threads.load(std::memory_order_relaxed); n > 0) return n;
  static const int from_environment = count_from_environment("ASPIS_NUM_THREADS");
  return from_environment > 0 ? from_environment : available_cores();
}

int planned_cores() {
  static const int from_environment = count_from_environment("ASPIS_PLAN_CORES");
  return from_environment > 0 ? from_environment : available_cores();
}

void set_num_threads(int n) { g_requested_threads.store(std::max(0, n), std::memory_order_relaxed); }

namespace detail {
namespace {

thread_local bool t_inside_team = false;

// Keeps the first exception of a team and lets the others stop early.
class FirstException {
 public:
  bool thrown() const { return thrown_.load(std::memory_order_relaxed); }
  void keep() {
    if (!claimed_.exchange(true)) error_ = std::current_exception();
    thrown_.store(true, std::memory_order_relaxed);
  }
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  std::atomic<bool> claimed_{false}, thrown_{false};
  std::exception_ptr error_;
};

void run_serially(int64_t n, TaskFn fn, void* context) {
  const FlushToZeroGuard ftz;
  for (int64_t i = 0; i < n; i++) fn(context, i, 0);
}

// What one member does: takes task numbers until none is left.
void work(std::atomic<int64_t>& next, int64_t n, TaskFn fn, void* context, int worker, FirstException& first) {
  const FlushToZeroGuard ftz;
  t_inside_team = true;
  for (;;) {
    const int64_t i = next.fetch_add(1, std::memory_order_relaxed);
    if (i >= n || first.thrown()) break;
    try {
      fn(context, i, worker);
    } catch (...) {
      first.keep();
    }
  }
  t_inside_team = false;
}

void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// How long a helper looks for the next job before it sleeps, and the caller for
// the last helper: about 50 us, the gap between two operators of a model. On a
// core that another process wants, spinning longer only takes time from those
// who have work.
constexpr int kSpins = 1500;

// The helpers. A job is open from the moment it is published until the caller
// has found no task left; helpers enter an open job and the caller waits for
// those inside only. A helper that has not woken up in time is not waited for,
// so a busy machine costs speed but never a stall, which is what a barrier over
// a fixed team costs there (libgomp: 10 times slower on 2 cores with load 5).
class Team {
 public:
  static Team& instance() {
    static Team team;
    return team;
  }

  void run(int64_t n, TaskFn fn, void* context, int size) {
    const std::lock_guard one_caller(callers_);
    grow(size - 1);
    FirstException first;
    std::atomic<int64_t> next{0};
    job_ = {&next, n, fn, context, &first, size - 1};
    state_.fetch_add(1, std::memory_order_seq_cst);  // now odd: open
    state_.notify_all();
    work(next, n, fn, context, 0, first);
    state_.fetch_add(1, std::memory_order_seq_cst);  // even: closed
    for (int spins = 0; inside_.load(std::memory_order_acquire) != 0; spins++) {
      if (spins < kSpins) {
        pause_briefly();
      } else if (const int count = inside_.load(std::memory_order_acquire); count != 0) {
        inside_.wait(count, std::memory_order_acquire);
      }
    }
    first.rethrow();
  }

  ~Team() {
    if (owner_ != getpid()) {  // a forked child has no helpers
      for (auto& t : threads_) t.detach();
      return;
    }
    stop_.store(true);
    state_.fetch_add(2, std::memory_order_seq_cst);
    state_.notify_all();
    for (auto& t : threads_) t.join();
  }

 private:
  struct Job {
    std::atomic<int64_t>* next = nullptr;
    int64_t n = 0;
    TaskFn fn = nullptr;
    void* context = nullptr;
    FirstException* first = nullptr;
    int helpers = 0;
  };

  void grow(int helpers) {
    while (static_cast<int>(threads_.size()) < helpers) {
      const int index = static_cast<int>(threads_.size());
      threads_.emplace_back([this, index, seen = state_.load()] { serve(index, seen); });
    }
  }

  // Waits for the state to differ from `seen` and returns it.
  uint32_t next_state(uint32_t seen) {
    for (int spins = 0; spins < kSpins; spins++) {
      if (const uint32_t now = state_.load(std::memory_order_acquire); now != seen) return now;
      pause_briefly();
    }
    state_.wait(seen, std::memory_order_acquire);
    return state_.load(std::memory_order_acquire);
  }

  void serve(int index, uint32_t seen) {
    for (;;) {
      const uint32_t now = next_state(seen);
      if (stop_.load(std::memory_order_relaxed)) return;
      seen = now;
      if (now % 2 == 0) continue;
      // Enter first, look again afterwards: either this sees that the job is
      // closed, or the caller sees that someone is inside.
      inside_.fetch_add(1, std::memory_order_seq_cst);
      if (state_.load(std::memory_order_seq_cst) == now && index < job_.helpers) {
        work(*job_.next, job_.n, job_.fn, job_.context, index + 1, *job_.first);
      }
      if (inside_.fetch_sub(1, std::memory_order_acq_rel) == 1) inside_.notify_one();
    }
  }

  std::mutex callers_;
  std::vector<std::thread> threads_;
  Job job_;
  alignas(64) std::atomic<uint32_t> state_{0};  // odd while a job is open
  alignas(64) std::atomic<int> inside_{0};
  std::atomic<bool> stop_{false};
  const pid_t owner_ = getpid();
};

}  // namespace

void run_tasks(int64_t n, TaskFn fn, void* context) {
  const int team = static_cast<int>(std::min<int64_t>(num_threads(), n));
  if (team <= 1 || t_inside_team) {
    run_serially(n, fn, context);
    return;
  }
  Team::instance().run(n, fn, context, team);
}

}  // namespace detail
}  // namespace aspis
