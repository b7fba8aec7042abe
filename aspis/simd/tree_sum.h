#pragma once

#include <algorithm>
#include <cstdint>

#include "aspis/base/parallel.h"

namespace aspis {

/// Rows per block for sums over rows (gradients of weights and biases): at
/// least 16,384 elements, and at most 64 blocks. Depends on the shape only.
inline int64_t tree_block_rows(int64_t rows, int64_t length) {
  constexpr int64_t kElements = 1 << 14, kBlocks = 64;
  return std::max<int64_t>({1, kElements / std::max<int64_t>(length, 1), div_ceil(rows, kBlocks)});
}

/// out[i] = sum over b < count of partials[b * length + i], added as a fixed
/// binary tree over b; `partials` is overwritten. Runs on the team, in pieces
/// of the row.
template <typename T>
void tree_sum_rows(T* partials, int64_t count, int64_t length, T* out) {
  constexpr int64_t kPiece = 512;
  parallel_for(div_ceil(length, kPiece), [&](int64_t piece) {
    const int64_t first = piece * kPiece, last = std::min(length, first + kPiece);
    for (int64_t step = 1; step < count; step *= 2) {
      for (int64_t b = 0; b + step < count; b += 2 * step) {
        T* a = partials + b * length;
        const T* c = partials + (b + step) * length;
        for (int64_t i = first; i < last; i++) a[i] += c[i];
      }
    }
    for (int64_t i = first; i < last; i++) out[i] = count > 0 ? partials[i] : T(0);
  });
}

}  // namespace aspis
