#pragma once

#include <algorithm>
#include <cstdint>

#include "aspis/base/parallel.h"
#include "aspis/ops/linear/kernel/product.h"

/// How the products of a linear layer are cut into tasks, by sizes alone.
namespace aspis::kernel {

// Rows of a task, a multiple of every tile height; small, so that the last
// tasks end together.
constexpr int64_t kRows = 48;

// A cut of [0, n) into at most `parts` parts at multiples of `unit`.
struct Cut {
  int64_t n = 0, size = 0, count = 0;

  Cut(int64_t total, int64_t parts, int64_t unit) : n(total) {
    if (n <= 0) return;
    size = div_ceil(div_ceil(n, std::max<int64_t>(1, parts)), unit) * unit;
    count = div_ceil(n, size);
  }
  int64_t first(int64_t i) const { return i * size; }
  int64_t length(int64_t i) const { return i + 1 == count ? n - i * size : size; }
  int64_t last(int64_t i) const { return first(i) + length(i); }
};

inline Cut cut_rows(int64_t rows) { return {rows, div_ceil(rows, kRows), kRows}; }

// Columns of packed B in parts of at least kPanelCut.
inline Cut cut_columns(int64_t columns, int64_t parts) {
  Cut cut(columns, std::min(parts, std::max<int64_t>(1, columns / kPanelCut)), kPanelCut);
  if (cut.count > 1 && cut.length(cut.count - 1) < kPanelCut) cut.count--;
  return cut;
}

struct WeightCut {
  Cut out, in, tokens;

  WeightCut(int64_t rows, int64_t ins, int64_t outs) : out(0, 1, 1), in(0, 1, 1), tokens(0, 1, 1) {
    constexpr int64_t kTasks = 16;
    out = Cut(outs, div_ceil(outs, 240), 24);
    in = Cut(ins, div_ceil(ins, 256), 64);
    // A partial result costs a write and a read of the whole gradient, which
    // must stay small beside the product; in cache it costs less.
    const int64_t least = ins * outs <= (1 << 16) ? 512 : 1024;
    const int64_t tiles = std::max<int64_t>(1, out.count * in.count);
    const int64_t chunks = std::clamp<int64_t>(div_ceil(kTasks, tiles), 1, std::max<int64_t>(1, rows / least));
    tokens = Cut(rows, chunks, 16);
    if (tiles * tokens.count < kTasks / 2) {
      const int64_t more = div_ceil(kTasks / 2, std::max<int64_t>(1, in.count * tokens.count));
      out = Cut(outs, std::clamp<int64_t>(more, 1, std::max<int64_t>(1, outs / 48)), 24);
    }
  }
};

/// Which of W and W^T a product takes.
enum class Weight : bool { kAsIs, kTransposed };

}  // namespace aspis::kernel
