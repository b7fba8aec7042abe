#pragma once

#include <cstdint>

namespace aspis::kernel {

/// Rows of scratch have a multiple of this many values: a whole vector of every
/// instruction set, in float and double.
inline constexpr int64_t kAttentionPad = 16;
/// Most queries of one block.
inline constexpr int64_t kAttentionQueries = 64;

constexpr int64_t attention_padded(int64_t n) { return (n + kAttentionPad - 1) / kAttentionPad * kAttentionPad; }

constexpr int64_t attention_blocks(int64_t queries) {
  return (queries + kAttentionQueries - 1) / kAttentionQueries;
}

/// First query of a block: groups of kAttentionPad queries are dealt evenly, so
/// that no block is left with a few queries of a full block's cost.
constexpr int64_t attention_block_first(int64_t queries, int64_t block) {
  const int64_t groups = (queries + kAttentionPad - 1) / kAttentionPad, blocks = attention_blocks(queries);
  const int64_t first = groups * block / blocks * kAttentionPad;
  return first < queries ? first : queries;
}

}  // namespace aspis::kernel
