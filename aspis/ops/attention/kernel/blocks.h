#pragma once

#include <cstdint>

namespace aspis::kernel {

/// Rows of scratch have a multiple of this many values: a whole vector of every
/// instruction set, in float and double.
inline constexpr int64_t kAttentionPad = 16;
/// Most queries of one block.
inline constexpr int64_t kAttentionQueries = 64;
/// Most keys of one panel.
inline constexpr int64_t kAttentionKeys = 256;

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

/// Tokens of one head: token t is at data + t step, or, with `columns` > 0, in a
/// window of a map with that many columns, lines `line` apart.
template <typename S>
struct AttentionTokens {
  S* data = nullptr;
  int64_t step = 0, line = 0, columns = 0;

  S* at(int64_t t) const {
    return columns == 0 ? data + t * step : data + t / columns * line + t % columns * step;
  }
};

/// One query head of one sequence.
template <typename T, typename S>
struct AttentionHead {
  int64_t queries = 0, keys = 0, dim = 0;
  double scale = 1;
  bool causal = false;
  AttentionTokens<const S> q, k, v;
  AttentionTokens<S> o;
  const T* bias = nullptr;
  const bool* allow = nullptr;
  int64_t mask_row = 0, mask_column = 0;
  T* stats = nullptr;  // largest; 1 / sum is stats_row behind
  int64_t stats_row = 0;
};

/// The query heads that share a head of k and v, and where their gradients go.
template <typename T, typename S>
struct AttentionVjpHeads {
  int64_t count = 0;
  const AttentionHead<T, S>* heads = nullptr;
  const AttentionTokens<const S>*o = nullptr, *d_o = nullptr;  // per query head
  const AttentionTokens<S>* dq = nullptr;
  AttentionTokens<S> dk, dv;
  T* d_scores = nullptr;  // of the first head, the others behind it
};

}  // namespace aspis::kernel
