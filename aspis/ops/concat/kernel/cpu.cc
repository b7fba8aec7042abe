#include "aspis/ops/concat/kernel/cpu.h"

#include <algorithm>
#include <cstring>

#include "aspis/base/parallel.h"

namespace aspis::kernel {

void concat(const ConcatParams& p) {
  constexpr int64_t kBytes = 1 << 16;
  int64_t row_bytes = 0;
  for (const auto& part : p.parts) row_bytes += part.bytes;
  if (row_bytes == 0 || p.rows == 0) return;
  // Long rows are cut, short ones taken together.
  const int64_t each = std::max<int64_t>(1, kBytes / row_bytes);
  const int64_t piece = std::min(row_bytes, kBytes), pieces = div_ceil(row_bytes, piece);
  parallel_for(div_ceil(p.rows, each) * pieces, [&](int64_t task) {
    const int64_t low = task % pieces * piece, high = std::min(row_bytes, low + piece), group = task / pieces;
    for (int64_t r = group * each; r < std::min(p.rows, (group + 1) * each); r++) {
      int64_t start = 0;  // of a part within the row
      for (const auto& part : p.parts) {
        const int64_t from = std::max(low, start), to = std::min(high, start + part.bytes);
        if (from < to) {
          std::memcpy(p.y + r * row_bytes + from, part.data + r * part.bytes + (from - start),
                      static_cast<size_t>(to - from));
        }
        start += part.bytes;
      }
    }
  });
}

}  // namespace aspis::kernel
