#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/ops/mamba3/kernel/params.h"
#include "aspis/ops/mamba3/kernel/rotary.h"

namespace aspis::kernel::mamba3_parts {

/// Tokens of one sequence, and where its chunks keep their states.
struct Sequence {
  int64_t batch = 0, first = 0, length = 0, slot = 0, chunks = 0;
};

template <typename T>
std::vector<Sequence> sequences_of(const Mamba3CoreParams<T>& p) {
  const Mamba3Shape& s = p.shape;
  std::vector<Sequence> list;
  int64_t slot = 0;
  for (int64_t i = 0; i < s.rows(); i++) {
    Sequence q{i, 0, s.length, slot, 0};
    if (s.sequences > 0) q = {0, p.cu_seqlens[i], p.cu_seqlens[i + 1] - p.cu_seqlens[i], slot, 0};
    q.chunks = div_ceil(q.length, s.chunk);
    slot += q.chunks;
    list.push_back(q);
  }
  return list;
}

/// pi tanh(angle) of n angles.
template <typename T>
std::vector<T> all_turns(int64_t n, const T* angle) {
  constexpr int64_t kEach = 4096;
  std::vector<T> turns(static_cast<size_t>(n));
  parallel_for(div_ceil(n, kEach), [&](int64_t task) {
    const int64_t first = task * kEach;
    rotary_loops<T>().turns(std::min(kEach, n - first), angle + first, turns.data() + first);
  });
  return turns;
}

}  // namespace aspis::kernel::mamba3_parts
