// A first-order recurrence over tokens, column by column.
//
// A scan in log depth touches memory several times; a loop over the tokens with
// the columns in vectors touches it once and is as fast as memory allows, if
// there are columns for all cores. Where there are not, the tokens are cut into
// segments: a first pass finds what each makes of zero and the product of its
// factors, the states between segments follow in order, and a second pass runs
// from them.

#include "aspis/ops/pscan/kernel/cpu.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/ops/pscan/kernel/block.h"
#include "aspis/simd/targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "aspis/ops/pscan/kernel/cpu.cc"
#include <hwy/foreach_target.h>  // IWYU pragma: keep
#include <hwy/highway.h>

#include "aspis/ops/pscan/kernel/cpu-inl.h"

#if HWY_ONCE
namespace aspis::kernel {

HWY_EXPORT(scan_steps_f32);
HWY_EXPORT(scan_steps_f64);

namespace {

template <typename T>
void steps(const PscanBlock<T>& b, T* h, T* product) {
  if constexpr (std::is_same_v<T, float>) {
    HWY_DYNAMIC_DISPATCH(scan_steps_f32)(b, h, product);
  } else {
    HWY_DYNAMIC_DISPATCH(scan_steps_f64)(b, h, product);
  }
}

constexpr int64_t kColumns = 64, kSegments = 16, kShortest = 1024;

// Runs the whole: `block(b, column)` makes a block without its steps, `start`
// says where its first state comes from (null for zero).
template <typename T, typename Block, typename Start>
void run(int64_t batch, int64_t length, int64_t columns, const Block& block, const Start& start) {
  const int64_t blocks = div_ceil(columns, kColumns), tasks = batch * blocks;
  const auto open = [&](int64_t task, T* h) {
    PscanBlock<T> b = block(task / blocks, task % blocks * kColumns);
    b.columns = std::min(kColumns, columns - task % blocks * kColumns);
    const T* from = start(task / blocks, task % blocks * kColumns);
    for (int64_t c = 0; c < kColumns; c++) h[c] = from && c < b.columns ? from[c] : T(0);
    return b;
  };
  if (tasks >= kSegments / 2 || length < kShortest) {
    parallel_for(tasks, [&](int64_t task) {
      T h[kColumns];
      PscanBlock<T> b = open(task, h);
      b.first = 0, b.last = length;
      steps(b, h, static_cast<T*>(nullptr));
    });
    return;
  }
  const int64_t each = div_ceil(length, kSegments);
  std::vector<T> states(static_cast<size_t>(tasks * kSegments * kColumns)), products(states.size());
  const auto place = [&](int64_t task, int64_t segment) { return (task * kSegments + segment) * kColumns; };
  const auto cut = [&](PscanBlock<T>& b, int64_t segment) {
    b.first = std::min(length, segment * each), b.last = std::min(length, (segment + 1) * each);
  };
  parallel_for(tasks * kSegments, [&](int64_t i) {
    const int64_t task = i / kSegments, segment = i % kSegments;
    T *h = states.data() + place(task, segment), *product = products.data() + place(task, segment);
    PscanBlock<T> b = open(task, h);
    cut(b, segment);
    b.out = b.da = nullptr;
    if (segment > 0) std::fill_n(h, kColumns, T(0));
    std::fill_n(product, kColumns, T(1));
    steps(b, h, product);
  });
  for (int64_t task = 0; task < tasks; task++) {
    for (int64_t segment = 1; segment < kSegments; segment++) {
      const T* const before = states.data() + place(task, segment - 1);
      T* const h = states.data() + place(task, segment);
      for (int64_t c = 0; c < kColumns; c++) h[c] += products[place(task, segment) + c] * before[c];
    }
  }
  parallel_for(tasks * kSegments, [&](int64_t i) {
    const int64_t task = i / kSegments, segment = i % kSegments;
    T h[kColumns];
    PscanBlock<T> b = open(task, h);
    cut(b, segment);
    if (segment > 0) std::copy_n(states.data() + place(task, segment - 1), kColumns, h);
    steps(b, h, static_cast<T*>(nullptr));
  });
}

}  // namespace

template <typename T>
void pscan(const PscanParams<T>& p) {
  run<T>(
      p.batch, p.length, p.columns,
      [&](int64_t b, int64_t column) {
        const int64_t at = b * p.length * p.columns + column;
        PscanBlock<T> block{.length = p.length, .stride = p.columns};
        block.a = p.A + at, block.x = p.X + at, block.out = p.H + at;
        return block;
      },
      [&](int64_t b, int64_t column) { return p.initial ? p.initial + b * p.columns + column : nullptr; });
}

template <typename T>
void pscan_vjp(const PscanVjpParams<T>& q) {
  const PscanParams<T>& p = q.in;
  run<T>(
      p.batch, p.length, p.columns,
      [&](int64_t b, int64_t column) {
        const int64_t at = b * p.length * p.columns + column;
        PscanBlock<T> block{.length = p.length, .stride = p.columns, .backward = true};
        block.a = p.A + at, block.x = q.dH + at, block.out = q.dX + at;
        block.h = p.H + at, block.da = q.dA + at;
        block.initial = p.initial ? p.initial + b * p.columns + column : nullptr;
        return block;
      },
      [](int64_t, int64_t) -> const T* { return nullptr; });
  if (!q.dinitial) return;
  for (int64_t b = 0; b < p.batch; b++) {
    for (int64_t c = 0; c < p.columns; c++) {
      const int64_t at = b * p.length * p.columns + c;
      q.dinitial[b * p.columns + c] = p.length > 0 ? p.A[at] * q.dX[at] : T(0);
    }
  }
}

template void pscan(const PscanParams<float>&);
template void pscan(const PscanParams<double>&);
template void pscan_vjp(const PscanVjpParams<float>&);
template void pscan_vjp(const PscanVjpParams<double>&);

}  // namespace aspis::kernel
#endif
