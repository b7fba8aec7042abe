#include "aspis/ops/selective_scan/kernel/cpu.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/ops/selective_scan/kernel/plan.h"
#include "aspis/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/selective_scan/kernel/cpu.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/cache_control.h>
#include <hwy/highway.h>

// In the order in which they build on each other.
// clang-format off
#include "aspis/ops/selective_scan/kernel/common-inl.h"
#include "aspis/ops/selective_scan/kernel/pointwise-inl.h"
#include "aspis/ops/selective_scan/kernel/forward-inl.h"
#include "aspis/ops/selective_scan/kernel/backward-inl.h"
#include "aspis/ops/selective_scan/kernel/pairs-inl.h"
#include "aspis/ops/selective_scan/kernel/step-inl.h"
// clang-format on

#if HWY_ONCE
namespace aspis::kernel {

HWY_EXPORT(forward_unit_f32);
HWY_EXPORT(forward_unit_f64);
HWY_EXPORT(backward_unit_f32);
HWY_EXPORT(backward_unit_f64);
HWY_EXPORT(adjoint_unit_f32);
HWY_EXPORT(adjoint_unit_f64);
HWY_EXPORT(step_block_f32);
HWY_EXPORT(step_block_f64);

namespace {

constexpr int64_t kScanStepChannels = 64;
constexpr int64_t kAlign = 64;

// Scratch of one thread that is kept between calls: a fresh allocation of this
// size would be mapped and unmapped by the system each time.
void* thread_scratch(size_t bytes) {
  struct Buffer {
    void* data = nullptr;
    size_t size = 0;
    ~Buffer() { std::free(data); }
  };
  thread_local Buffer buffer;
  if (buffer.size < bytes) {
    std::free(buffer.data);
    buffer.size = (bytes + kAlign - 1) / kAlign * kAlign;
    buffer.data = std::aligned_alloc(kAlign, buffer.size);
    if (!buffer.data) {
      buffer.size = 0;
      throw std::bad_alloc();
    }
  }
  return buffer.data;
}

template <typename T>
bool is_permutation(const ScanParams<T>& p) {
  if (!p.order) return true;
  const int64_t L = p.shape.length;
  std::vector<bool> seen(L, false);
  for (int64_t i = 0; i < L; i++) {
    const int64_t t = p.order[i];
    if (t < 0 || t >= L || seen[t]) return false;
    seen[t] = true;
  }
  return true;
}

template <typename T>
void fill_nan(T* data, int64_t n) {
  if (data) std::fill(data, data + n, std::numeric_limits<T>::quiet_NaN());
}
template <typename T>
void fill_nan(const ScanRows<T>& rows, const ScanShape& s) {
  if (!rows) return;
  for (int64_t b = 0; b < s.batch; b++) {
    for (int64_t t = 0; t < s.length; t++) fill_nan(rows.row(b, t), s.channels);
  }
}

template <typename T>
struct Functions;
template <>
struct Functions<float> {
  static auto forward() { return &HWY_DYNAMIC_DISPATCH(forward_unit_f32); }
  static auto backward() { return &HWY_DYNAMIC_DISPATCH(backward_unit_f32); }
  static auto adjoint() { return &HWY_DYNAMIC_DISPATCH(adjoint_unit_f32); }
  static auto step() { return &HWY_DYNAMIC_DISPATCH(step_block_f32); }
  static constexpr float kStepScale = 1 / 1.44269504088896341f;
};
template <>
struct Functions<double> {
  static auto forward() { return &HWY_DYNAMIC_DISPATCH(forward_unit_f64); }
  static auto backward() { return &HWY_DYNAMIC_DISPATCH(backward_unit_f64); }
  static auto adjoint() { return &HWY_DYNAMIC_DISPATCH(adjoint_unit_f64); }
  static auto step() { return &HWY_DYNAMIC_DISPATCH(step_block_f64); }
  static constexpr double kStepScale = 1;
};

template <typename T>
void run_parts(const ScanParams<T>& p, const ScanWalk<T>& walk) {
  const ScanShape& s = p.shape;
  const int64_t units = scan_units(s);
  const size_t bytes = sizeof(T) * 4 * scan_unit_panels(s) * s.panel_size();
  const auto run = Functions<T>::forward();
  parallel_for(p.plan->part_count() * units, [&](int64_t i) {
    run(p, walk, i / units, i % units, static_cast<T*>(thread_scratch(bytes)));
  });
}

// {D, N} of state `index` as the panels at `to`.
template <typename T>
void state_to_panels(const ScanShape& s, const T* states, int64_t index, T* to) {
  for (int64_t g = 0; g < s.groups; g++) {
    for (int64_t i = 0; i < s.group_panels(); i++, to += s.panel_size()) {
      const int64_t channel = g * s.group_channels() + i * kScanPanel;
      const int64_t channels = std::min(kScanPanel, s.group_channels() - i * kScanPanel);
      for (int64_t n = 0; n < s.state; n++) {
        for (int64_t c = 0; c < kScanPanel; c++) {
          to[n * kScanPanel + c] =
              states && c < channels ? states[(index * s.channels + channel + c) * s.state + n] : T(0);
        }
      }
    }
  }
}

// to = exp(A sum of steps) from + end, panel by panel.
template <typename T>
void pass_on(const ScanParams<T>& p, const T* sums, const T* from, const T* end, T* to) {
  const ScanShape& s = p.shape;
  for (int64_t panel = 0; panel < s.panels(); panel++) {
    const int64_t g = panel / s.group_panels(), i = panel % s.group_panels();
    const int64_t channel = g * s.group_channels() + i * kScanPanel;
    const int64_t channels = std::min(kScanPanel, s.group_channels() - i * kScanPanel);
    for (int64_t n = 0; n < s.state; n++) {
      for (int64_t c = 0; c < kScanPanel; c++) {
        const int64_t at = panel * s.panel_size() + n * kScanPanel + c;
        const T A = c < channels ? p.A[(channel + c) * s.state + n] : T(0);
        const T step = sums[panel * kScanPanel + c] * Functions<T>::kStepScale;
        // A state of zero stays zero, however much it would grow.
        to[at] = from[at] == T(0) && !std::isnan(step * A) ? end[at] : std::exp(step * A) * from[at] + end[at];
      }
    }
  }
}

// The walks over chained runs that come before the last one: where each run starts.
template <typename T>
class Chain {
 public:
  explicit Chain(const ScanParams<T>& p)
      : p_(p),
        panels_(p.shape.panels() * p.shape.panel_size()),
        lanes_(p.shape.panels() * kScanPanel),
        ends_(p.plan->runs.size() * panels_),
        starts_(ends_.size()),
        sums_(p.plan->runs.size() * lanes_) {}

  ScanWalk<T> forward() {
    run_parts(p_, {ends_.data(), sums_.data(), nullptr});
    const auto& runs = p_.plan->runs;
    for (size_t i = 0; i < runs.size(); i++) {
      if (runs[i].first == 0) {
        state_to_panels(p_.shape, p_.initial_state, runs[i].initial, at(starts_, i));
      } else {
        pass_on(p_, sums(i - 1), at(starts_, i - 1), at(ends_, i - 1), at(starts_, i));
      }
    }
    return {nullptr, nullptr, starts_.data()};
  }

  // Of the adjoint, from the last run to the first; the sums are those of `forward`.
  ScanWalk<T> backward(const ScanVjpParams<T>& q) {
    run_parts(p_, {ends_.data(), sums_.data(), nullptr});
    const ScanWalk<T> walk{ends_.data(), nullptr, nullptr};
    const int64_t units = scan_units(p_.shape), count = static_cast<int64_t>(p_.plan->runs.size());
    const size_t bytes = sizeof(T) * 4 * scan_unit_panels(p_.shape) * p_.shape.panel_size();
    const auto run = Functions<T>::adjoint();
    parallel_for(count * units, [&](int64_t i) {
      run(q, walk, i / units, i % units, static_cast<T*>(thread_scratch(bytes)));
    });
    const auto& runs = p_.plan->runs;
    for (size_t i = runs.size(); i-- > 0;) {
      if (runs[i].last >= 0) {
        state_to_panels(p_.shape, q.dlast_state, runs[i].last, at(starts_, i));
      } else {
        pass_on(p_, sums(i + 1), at(starts_, i + 1), at(ends_, i + 1), at(starts_, i));
      }
    }
    return {nullptr, nullptr, starts_.data()};
  }

 private:
  T* at(std::vector<T>& panels, size_t run) { return panels.data() + run * panels_; }
  const T* sums(size_t run) const { return sums_.data() + run * lanes_; }

  const ScanParams<T>& p_;
  const size_t panels_, lanes_;
  std::vector<T> ends_, starts_, sums_;
};

template <typename T>
void run_forward(const ScanParams<T>& p) {
  if (p.plan->chained) {
    Chain<T> chain(p);
    run_parts(p, chain.forward());
  } else {
    run_parts(p, {});
  }
}

// Adds `count` arrays of n values that lie `stride` apart into the first one,
// as a tree whose shape depends on `count` alone.
template <typename T>
void add_tree(T* data, int64_t count, int64_t stride, int64_t n) {
  for (int64_t step = 1; step < count; step *= 2) {
    for (int64_t i = 0; i + step < count; i += 2 * step) {
      T* to = data + i * stride;
      const T* from = data + (i + step) * stride;
      for (int64_t k = 0; k < n; k++) to[k] += from[k];
    }
  }
}

// {parts, panels, N, 16} -> {D, N}, summed over parts.
template <typename T>
void reduce_panels(const ScanShape& s, int64_t parts, int64_t panel, T* partial, T* out) {
  const int64_t size = s.panel_size(), group = panel / s.group_panels(), i = panel % s.group_panels();
  add_tree(partial + panel * size, parts, s.panels() * size, size);
  const int64_t channel = group * s.group_channels() + i * kScanPanel;
  const int64_t channels = std::min(kScanPanel, s.group_channels() - i * kScanPanel);
  for (int64_t c = 0; c < channels; c++) {
    for (int64_t n = 0; n < s.state; n++) out[(channel + c) * s.state + n] = partial[panel * size + n * kScanPanel + c];
  }
}

// {B, units, L, N} -> {B, L, G, N}, summed over the units of a group, for
// tokens [first, last) of sample b.
template <typename T>
void reduce_units(const ScanShape& s, int64_t b, int64_t first, int64_t last, T* partial, T* out) {
  const int64_t per_group = scan_units_per_group(s), rows = s.length * s.state;
  for (int64_t g = 0; g < s.groups; g++) {
    T* unit = partial + (b * s.groups + g) * per_group * rows + first * s.state;
    add_tree(unit, per_group, rows, (last - first) * s.state);
    for (int64_t t = first; t < last; t++) {
      const T* from = unit + (t - first) * s.state;
      std::copy(from, from + s.state, out + ((b * s.length + t) * s.groups + g) * s.state);
    }
  }
}

template <typename T>
void reduce_sums(const ScanVjpParams<T>& q, const ScanVjpSums<T>& sums) {
  const ScanShape& s = q.in.shape;
  const int64_t parts = q.in.plan->part_count();
  parallel_for(s.panels(), [&](int64_t panel) {
    reduce_panels(s, parts, panel, sums.dA, q.dA);
    if (q.in.B.constant) reduce_panels(s, parts, panel, sums.dB, q.dB);
    if (q.in.C.constant) reduce_panels(s, parts, panel, sums.dC, q.dC);
    ScanShape one = s;
    one.state = 1;
    if (q.dD) reduce_panels(one, parts, panel, sums.dD, q.dD);
    if (q.ddelta_bias) reduce_panels(one, parts, panel, sums.dbias, q.ddelta_bias);
  });
  if (q.in.B.constant && q.in.C.constant) return;
  constexpr int64_t kTokens = 64;
  const int64_t blocks = div_ceil(s.length, kTokens);
  parallel_for(s.batch * blocks, [&](int64_t i) {
    const int64_t b = i / blocks, first = i % blocks * kTokens, last = std::min(s.length, first + kTokens);
    if (!q.in.B.constant) reduce_units(s, b, first, last, sums.dB, q.dB);
    if (!q.in.C.constant) reduce_units(s, b, first, last, sums.dC, q.dC);
  });
}

template <typename T>
void fill_gradients_nan(const ScanVjpParams<T>& q) {
  const ScanShape& s = q.in.shape;
  const int64_t DN = s.channels * s.state, rows = s.batch * s.length * s.groups * s.state;
  fill_nan(q.du, s);
  fill_nan(q.ddelta, s);
  fill_nan(q.dz, s);
  fill_nan(q.dA, DN);
  fill_nan(q.dB, q.in.B.constant ? DN : rows);
  fill_nan(q.dC, q.in.C.constant ? DN : rows);
  fill_nan(q.dD, s.channels);
  fill_nan(q.ddelta_bias, s.channels);
  fill_nan(q.dinitial_state, q.in.plan->states * DN);
}

// The plan of a call: its own, or that of rows which are one sequence each.
class Planned {
 public:
  Planned(const ScanPlan* given, const ScanShape& shape) : own_(given ? ScanPlan() : dense_plan(shape)) {
    plan_ = given ? given : &own_;
  }
  const ScanPlan* get() const { return plan_; }

 private:
  ScanPlan own_;
  const ScanPlan* plan_;
};

template <typename T>
void scan_any(ScanParams<T> p) {
  const Planned planned(p.plan, p.shape);
  p.plan = planned.get();
  const int64_t states = p.plan->states * p.shape.channels * p.shape.state;
  if (!is_permutation(p)) {
    fill_nan(p.out, p.shape);
    fill_nan(p.last_state, states);
    fill_nan(p.checkpoints, p.plan->checkpoint_size(p.shape));
    return;
  }
  if (p.plan->partial && p.last_state) std::fill(p.last_state, p.last_state + states, T(0));
  run_forward(p);
}

template <typename T>
void scan_vjp_any(ScanVjpParams<T> q) {
  const ScanShape& s = q.in.shape;
  const Planned planned(q.in.plan, s);
  q.in.plan = planned.get();
  const ScanPlan& plan = *q.in.plan;
  if (!is_permutation(q.in)) {
    fill_gradients_nan(q);
    return;
  }
  if (plan.partial && q.dinitial_state) {
    std::fill(q.dinitial_state, q.dinitial_state + plan.states * s.channels * s.state, T(0));
  }
  if (q.recompute) {
    ScanParams<T> forward = q.in;
    forward.out = {};
    forward.last_state = nullptr;
    run_forward(forward);
  }
  const int64_t parts = plan.part_count(), units = scan_units(s), panels = parts * s.panels() * s.panel_size();
  const int64_t rows = s.batch * units * s.length * s.state;
  const auto address = reinterpret_cast<uintptr_t>(q.workspace);
  ScanVjpSums<T> sums;
  sums.dA = q.workspace + (kAlign - address % kAlign) % kAlign / sizeof(T);
  sums.dD = sums.dA + panels;
  sums.dbias = sums.dD + parts * s.panels() * kScanPanel;
  sums.dB = sums.dbias + parts * s.panels() * kScanPanel;
  sums.dC = sums.dB + (q.in.B.constant ? panels : (rows + kScanPanel - 1) / kScanPanel * kScanPanel);
  std::unique_ptr<Chain<T>> chain;
  ScanWalk<T> walk;
  if (plan.chained) {
    chain = std::make_unique<Chain<T>>(q.in);
    walk = chain->backward(q);
  }
  const size_t bytes = sizeof(T) * (4 * scan_unit_panels(s) + 2 * kScanSegment) * s.panel_size();
  const auto run = Functions<T>::backward();
  parallel_for(parts * units, [&](int64_t i) {
    run(q, sums, walk, i / units, i % units, static_cast<T*>(thread_scratch(bytes)));
  });
  reduce_sums(q, sums);
}

// Blocks of a task: a stretch of some 32 KiB of states, which one core fetches ahead, but
// some twelve tasks where there is that much. What is computed does not depend on it.
template <typename T>
int64_t step_blocks(const ScanStepParams<T>& p) {
  const int64_t blocks = div_ceil(p.channels, kScanStepChannels);
  const int64_t bytes = kScanStepChannels * p.state_size * static_cast<int64_t>(sizeof(T));
  return std::max<int64_t>(1, std::min(p.batch * blocks / 12, (int64_t{32} << 10) / bytes));
}

template <typename T>
void scan_step_any(const ScanStepParams<T>& p) {
  const int64_t each = step_blocks(p) * kScanStepChannels, tasks = div_ceil(p.channels, each);
  const auto run = Functions<T>::step();
  parallel_for(p.batch * tasks, [&](int64_t i) {
    const int64_t first = i % tasks * each, last = std::min(p.channels, first + each);
    for (int64_t c = first; c < last; c += kScanStepChannels) run(p, i / tasks, c);
  });
}

}  // namespace

int64_t scan_vjp_workspace(const ScanShape& s, int64_t parts, bool constant_B, bool constant_C) {
  const int64_t panels = parts * s.panels() * s.panel_size();
  const int64_t rows = (s.batch * scan_units(s) * s.length * s.state + kScanPanel - 1) / kScanPanel * kScanPanel;
  return kAlign + panels + 2 * parts * s.panels() * kScanPanel + (constant_B ? panels : rows) +
         (constant_C ? panels : rows);
}

template <>
void scan(const ScanParams<float>& p) {
  scan_any(p);
}
template <>
void scan(const ScanParams<double>& p) {
  scan_any(p);
}
template <>
void scan_vjp(const ScanVjpParams<float>& q) {
  scan_vjp_any(q);
}
template <>
void scan_vjp(const ScanVjpParams<double>& q) {
  scan_vjp_any(q);
}
template <>
void scan_step(const ScanStepParams<float>& p) {
  scan_step_any(p);
}
template <>
void scan_step(const ScanStepParams<double>& p) {
  scan_step_any(p);
}

}  // namespace aspis::kernel
#endif
