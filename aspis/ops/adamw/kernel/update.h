#pragma once

#include <algorithm>

#include "aspis/base/parallel.h"
#include "aspis/ops/adamw/kernel/cpu.h"
#include "aspis/ops/grad_norm/kernel/segments.h"

/// What the updates of all optimizers share around their kernels.
namespace aspis::kernel {

/// Elements of an array that one task updates at most.
inline constexpr int64_t kUpdateBlock = 1 << 14;

/// Calls f(array, first, count) for blocks of all arrays on the team.
template <typename T, typename F>
void for_segments(const UpdateParams<T>& p, F f) {
  const SegmentList list =
      cut_arrays(static_cast<int64_t>(p.arrays.size()), kUpdateBlock, [&](int64_t i) { return p.arrays[i].n; });
  parallel_for(list.tasks(), [&](int64_t task) {
    for (int64_t s = list.starts[task]; s < list.starts[task + 1]; s++) {
      const Segment& segment = list.segments[s];
      f(p.arrays[segment.array], segment.first, segment.count);
    }
  });
}

/// The outputs become the inputs, bit for bit: a step that must not happen.
template <typename T>
void pass_through(const UpdateParams<T>& p) {
  for_segments(p, [](const UpdateArray<T>& a, int64_t first, int64_t count) {
    for (int i = 0; i < kMaxUpdated; i++) {
      if (a.out[i] && a.out[i] != a.in[i]) std::copy_n(a.in[i] + first, count, a.out[i] + first);
    }
    if (a.average_out && a.average_out != a.average_in) {
      std::copy_n(a.average_in + first, count, a.average_out + first);
    }
    if (a.half) {
      for (int64_t i = first; i < first + count; i++) a.half[i] = to_bf16(static_cast<float>(a.in[0][i]));
    }
  });
}

}  // namespace aspis::kernel
