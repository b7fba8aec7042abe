#pragma once

#include <algorithm>
#include <cstdint>

#include "aspis/base/parallel.h"

namespace aspis::kernel {

/// How {samples, rows, channels} is cut. Few channels would leave vectors empty,
/// so several rows are taken as one line of `width` values; per-channel numbers
/// are repeated along it, and sums of columns folded together afterwards.
struct ChannelBlocks {
  static constexpr int64_t kElements = 1 << 15;  ///< of a block: half of a small L2 cache in float
  static constexpr int64_t kPad = 64;            ///< lines of numbers are whole vectors

  ChannelBlocks(int64_t samples_, int64_t rows_, int64_t channels_)
      : samples(samples_), rows(rows_), channels(channels_) {
    fold = std::max<int64_t>(1, div_ceil(64, std::max<int64_t>(channels, 1)));
    if (fold > rows) fold = std::max<int64_t>(rows, 1);
    width = fold * channels;
    line = div_ceil(width, kPad) * kPad;
    block_rows = fold * std::max<int64_t>(1, kElements / std::max<int64_t>(width, 1));
    // Long channel lists would make the blocks' sums as large as the data.
    block_rows = std::max(block_rows, fold * 32);
    count = div_ceil(rows, block_rows);
  }

  int64_t first_row(int64_t block) const { return block * block_rows; }
  int64_t rows_of(int64_t block) const { return std::min(rows, (block + 1) * block_rows) - first_row(block); }
  /// Start of a block of a sample, in elements.
  int64_t offset(int64_t sample, int64_t block) const { return (sample * rows + first_row(block)) * channels; }

  int64_t samples, rows, channels;
  int64_t fold = 1;   ///< rows in a line
  int64_t width = 0;  ///< fold * channels
  int64_t line = 0;   ///< width rounded up: length of a line of sums or coefficients
  int64_t block_rows = 0, count = 0;
};

}  // namespace aspis::kernel
