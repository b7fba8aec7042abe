#include "aspis/ops/selective_scan/kernel/cpu.h"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <memory>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/selective_scan/kernel/cpu.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include "aspis/ops/selective_scan/kernel/common-inl.h"
#include "aspis/ops/selective_scan/kernel/pointwise-inl.h"
#include "aspis/ops/selective_scan/kernel/forward-inl.h"
#include "aspis/ops/selective_scan/kernel/backward-inl.h"
#include "aspis/ops/selective_scan/kernel/step-inl.h"

#if HWY_ONCE
namespace aspis::kernel {

HWY_EXPORT(forward_unit_f32);
HWY_EXPORT(forward_unit_f64);
HWY_EXPORT(backward_unit_f32);
HWY_EXPORT(backward_unit_f64);
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
  static auto step() { return &HWY_DYNAMIC_DISPATCH(step_block_f32); }
};
template <>
struct Functions<double> {
  static auto forward() { return &HWY_DYNAMIC_DISPATCH(forward_unit_f64); }
  static auto backward() { return &HWY_DYNAMIC_DISPATCH(backward_unit_f64); }
  static auto step() { return &HWY_DYNAMIC_DISPATCH(step_block_f64); }
};

template <typename T>
void run_forward(const ScanParams<T>& p) {
  const ScanShape& s = p.shape;
  const int64_t units = scan_units(s);
  const size_t bytes = sizeof(T) * 4 * scan_unit_panels(s) * s.panel_size();
  const auto run = Functions<T>::forward();
  parallel_for(s.batch * units, [&](int64_t i) {
    run(p, i / units, i % units, static_cast<T*>(thread_scratch(bytes)));
  });
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

// {B, panels, N, 16} -> {D, N}, summed over samples.
template <typename T>
void reduce_panels(const ScanShape& s, int64_t panel, T* partial, T* out) {
  const int64_t size = s.panel_size(), group = panel / s.group_panels(), i = panel % s.group_panels();
  add_tree(partial + panel * size, s.batch, s.panels() * size, size);
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
  parallel_for(s.panels(), [&](int64_t panel) {
    reduce_panels(s, panel, sums.dA, q.dA);
    if (q.in.B.constant) reduce_panels(s, panel, sums.dB, q.dB);
    if (q.in.C.constant) reduce_panels(s, panel, sums.dC, q.dC);
    ScanShape one = s;
    one.state = 1;
    if (q.dD) reduce_panels(one, panel, sums.dD, q.dD);
    if (q.ddelta_bias) reduce_panels(one, panel, sums.dbias, q.ddelta_bias);
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
  fill_nan(q.dinitial_state, s.batch * DN);
}

template <typename T>
void scan_any(const ScanParams<T>& p) {
  if (!is_permutation(p)) {
    fill_nan(p.out, p.shape);
    fill_nan(p.last_state, p.shape.batch * p.shape.channels * p.shape.state);
    fill_nan(p.checkpoints, p.shape.checkpoint_size());
    return;
  }
  run_forward(p);
}

template <typename T>
void scan_vjp_any(const ScanVjpParams<T>& q) {
  const ScanShape& s = q.in.shape;
  if (!is_permutation(q.in)) {
    fill_gradients_nan(q);
    return;
  }
  if (q.recompute) {
    ScanParams<T> forward = q.in;
    forward.out = {};
    forward.last_state = nullptr;
    run_forward(forward);
  }
  const int64_t units = scan_units(s), panels = s.batch * s.panels() * s.panel_size();
  const int64_t rows = s.batch * units * s.length * s.state;
  const auto address = reinterpret_cast<uintptr_t>(q.workspace);
  ScanVjpSums<T> sums;
  sums.dA = q.workspace + (kAlign - address % kAlign) % kAlign / sizeof(T);
  sums.dD = sums.dA + panels;
  sums.dbias = sums.dD + s.batch * s.panels() * kScanPanel;
  sums.dB = sums.dbias + s.batch * s.panels() * kScanPanel;
  sums.dC = sums.dB + (q.in.B.constant ? panels : (rows + kScanPanel - 1) / kScanPanel * kScanPanel);
  const size_t bytes = sizeof(T) * (4 * scan_unit_panels(s) + 2 * kScanSegment) * s.panel_size();
  const auto run = Functions<T>::backward();
  parallel_for(s.batch * units, [&](int64_t i) {
    run(q, sums, i / units, i % units, static_cast<T*>(thread_scratch(bytes)));
  });
  reduce_sums(q, sums);
}

template <typename T>
void scan_step_any(const ScanStepParams<T>& p) {
  const int64_t blocks = div_ceil(p.channels, kScanStepChannels);
  const auto run = Functions<T>::step();
  parallel_for(p.batch * blocks, [&](int64_t i) { run(p, i / blocks, i % blocks * kScanStepChannels); });
}

}  // namespace

int64_t scan_vjp_workspace(const ScanShape& s, bool constant_B, bool constant_C) {
  const int64_t panels = s.batch * s.panels() * s.panel_size();
  const int64_t rows = (s.batch * scan_units(s) * s.length * s.state + kScanPanel - 1) / kScanPanel * kScanPanel;
  return kAlign + panels + 2 * s.batch * s.panels() * kScanPanel + (constant_B ? panels : rows) +
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
