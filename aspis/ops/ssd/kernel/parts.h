#pragma once

// What both forms of the operator need: sequences, steps, layouts, scratch.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "aspis/base/parallel.h"
#include "aspis/ops/ssd/kernel/chunk.h"
#include "aspis/ops/ssd/kernel/params.h"

namespace aspis::kernel::ssd_parts {

/// One sequence with its own states.
struct Row {
  int64_t batch = 0, first = 0, length = 0;
  int64_t slot = 0;  ///< of its first chunk
  int64_t chunks = 0;
};

template <typename T>
std::vector<Row> rows_of(const SsdParams<T>& p) {
  const SsdShape& s = p.shape;
  std::vector<Row> rows;
  int64_t slot = 0;
  for (int64_t i = 0; i < s.rows(); i++) {
    Row r{i, 0, s.length, slot, 0};
    if (s.sequences > 0) r = {0, p.cu_seqlens[i], p.cu_seqlens[i + 1] - p.cu_seqlens[i], slot, 0};
    r.chunks = div_ceil(r.length, s.chunk);
    slot += r.chunks;
    rows.push_back(r);
  }
  return rows;
}

/// The next address that is a multiple of a cache line, at most 15 values on.
template <typename T>
T* aligned(T* p) {
  constexpr uintptr_t kLine = 64;
  return reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(p) + kLine - 1) / kLine * kLine);
}

/// Memory of a task, kept between tasks of one thread.
template <typename T>
T* scratch(int64_t values) {
  thread_local std::vector<T> memory;
  if (static_cast<int64_t>(memory.size()) < values + 16) memory.resize(static_cast<size_t>(values + 16));
  return aligned(memory.data());
}

/// Hands out parts of a block of memory.
template <typename T>
struct Arena {
  T* next;
  T* take(int64_t n) {
    T* p = next;
    next += (n + 15) / 16 * 16;
    return p;
  }
};

/// Steps after bias, softplus and clip, {tokens, H}; 0 at padding.
template <typename T>
void fill_steps(const SsdParams<T>& p, T* dt, T* slopes) {
  const SsdShape& s = p.shape;
  constexpr int64_t kTokens = 256;
  parallel_for(div_ceil(s.tokens(), kTokens), [&](int64_t task) {
    const auto& loops = chunk_loops<T>();
    const int64_t first = task * kTokens, n = std::min(kTokens, s.tokens() - first);
    T raw[kTokens], value[kTokens];
    for (int64_t h = 0; h < s.heads; h++) {
      for (int64_t i = 0; i < n; i++) raw[i] = p.dt[(first + i) * s.heads + h];
      const T bias = p.dt_bias ? p.dt_bias[h] : T(0);
      const auto store = [&](T* to) {
        for (int64_t i = 0; i < n; i++)
          to[(first + i) * s.heads + h] = p.seq_idx && p.seq_idx[first + i] < 0 ? T(0) : value[i];
      };
      if (dt) {
        loops.time_steps(n, raw, bias, p.softplus, p.dt_min, p.dt_max, value);
        store(dt);
      }
      if (slopes) {
        loops.time_slopes(n, raw, bias, p.softplus, p.dt_min, p.dt_max, value);
        store(slopes);
      }
    }
  });
}

/// to {columns, rows} = from {rows, columns}^T, for {P, N} of the public layout
/// and {N, P} of the kernels; strides are distances of rows.
template <typename T>
void turn(const T* from, int64_t from_stride, int64_t rows, int64_t columns, T* to, int64_t to_stride) {
  constexpr int64_t kBlock = 16;  // a cache line of floats in both directions
  for (int64_t r0 = 0; r0 < rows; r0 += kBlock) {
    const int64_t r1 = std::min(rows, r0 + kBlock);
    for (int64_t c0 = 0; c0 < columns; c0 += kBlock) {
      const int64_t c1 = std::min(columns, c0 + kBlock);
      for (int64_t c = c0; c < c1; c++) {
        for (int64_t r = r0; r < r1; r++) to[c * to_stride + r] = from[r * from_stride + c];
      }
    }
  }
}

/// Rows of a head lie a page apart, which hardware prefetching does not follow.
template <typename T>
void prefetch_rows(const T* rows, int64_t stride, int64_t n, int64_t width) {
  if (!rows) return;
  constexpr int64_t kLine = 64 / static_cast<int64_t>(sizeof(T));
  for (int64_t i = 0; i < n; i++) {
    for (int64_t c = 0; c < width; c += kLine) __builtin_prefetch(rows + i * stride + c);
  }
}

}  // namespace aspis::kernel::ssd_parts
