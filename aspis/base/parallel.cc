#include "aspis/base/parallel.h"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <string>
#include <thread>

#if defined(__linux__)
#include <sched.h>
#endif

#include "aspis/base/ftz.h"

#if defined(ASPIS_THREADS_OPENMP)
#include <omp.h>
#else
#include <condition_variable>
#include <mutex>
#include <vector>
#endif

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

// CPU quota of the cgroup in cores, or 0 if there is none.
double cgroup_quota() {
#if defined(__linux__)
  std::string quota;
  double period = 0;
  if (std::ifstream v2("/sys/fs/cgroup/cpu.max"); v2 >> quota >> period) {
    if (quota == "max" || period <= 0) return 0;
    return std::atof(quota.c_str()) / period;
  }
  double us = -1;
  std::ifstream("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") >> us;
  std::ifstream("/sys/fs/cgroup/cpu/cpu.cfs_period_us") >> period;
  if (us > 0 && period > 0) return us / period;
#endif
  return 0;
}

int threads_from_environment() {
  const char* text = std::getenv("ASPIS_NUM_THREADS");
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
    if (const double quota = cgroup_quota(); quota > 0) {
      n = std::min(n, std::max(1, static_cast<int>(std::floor(quota + 0.5))));
    }
    return n;
  }();
  return cores;
}

int num_threads() {
  if (const int n = g_requested_threads.load(std::memory_order_relaxed); n > 0) return n;
  static const int from_environment = threads_from_environment();
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
  const bool outer = t_inside_team;
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
  t_inside_team = outer;
}

}  // namespace

#if defined(ASPIS_THREADS_OPENMP)

void run_tasks(int64_t n, TaskFn fn, void* context) {
  const int team = static_cast<int>(std::min<int64_t>(num_threads(), n));
  if (team <= 1 || t_inside_team || omp_in_parallel()) {
    run_serially(n, fn, context);
    return;
  }
  FirstException first;
  std::atomic<int64_t> next{0};
  // Always the full team: asking libgomp for changing sizes makes it tear
  // threads down and start them again.
#pragma omp parallel num_threads(num_threads())
  work(next, n, fn, context, omp_get_thread_num(), first);
  first.rethrow();
}

#else

namespace {

// A fixed set of std::threads for platforms without OpenMP and for the thread
// sanitizer, which does not see libgomp's barriers.
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
    {
      const std::lock_guard lock(mutex_);
      job_ = {&next, n, fn, context, &first};
      helpers_wanted_ = size - 1;
      running_ = size - 1;
      generation_++;
    }
    wake_.notify_all();
    work(next, n, fn, context, 0, first);
    std::unique_lock lock(mutex_);
    done_.wait(lock, [&] { return running_ == 0; });
    lock.unlock();
    first.rethrow();
  }

  ~Team() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (auto& t : threads_) t.join();
  }

 private:
  struct Job {
    std::atomic<int64_t>* next = nullptr;
    int64_t n = 0;
    TaskFn fn = nullptr;
    void* context = nullptr;
    FirstException* first = nullptr;
  };

  void grow(int helpers) {
    while (static_cast<int>(threads_.size()) < helpers) {
      const int index = static_cast<int>(threads_.size());
      uint64_t seen;
      {
        const std::lock_guard lock(mutex_);
        seen = generation_;
      }
      threads_.emplace_back([this, index, seen] { serve(index, seen); });
    }
  }

  void serve(int index, uint64_t seen) {
    for (;;) {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return stop_ || generation_ != seen; });
      if (stop_) return;
      seen = generation_;
      if (index >= helpers_wanted_) continue;
      const Job job = job_;
      lock.unlock();
      work(*job.next, job.n, job.fn, job.context, index + 1, *job.first);
      lock.lock();
      if (--running_ == 0) done_.notify_one();
    }
  }

  std::mutex callers_, mutex_;
  std::condition_variable wake_, done_;
  std::vector<std::thread> threads_;
  Job job_;
  int helpers_wanted_ = 0, running_ = 0;
  uint64_t generation_ = 0;
  bool stop_ = false;
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

#endif

}  // namespace detail
}  // namespace aspis
