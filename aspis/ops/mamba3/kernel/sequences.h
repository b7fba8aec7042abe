#pragma once

#include <cstdint>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/ops/mamba3/kernel/params.h"

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

}  // namespace aspis::kernel::mamba3_parts
