#pragma once

#include <mlx/array.h>

#include <cstdint>
#include <vector>

namespace aspis::ops {

namespace mx = mlx::core;

/// Packed sequences, the same for every operator that runs over tokens. There
/// are two ways to say where sequences begin inside a row of L tokens:
///
/// - `cu_seqlens` = {0, l0, l0 + l1, .., L}, for a batch of one: S sequences one
///   after another, empty ones allowed. Initial and last states have S in place
///   of the batch; an empty sequence hands its initial state on unchanged.
/// - `seq_idx` {B, L} int32: the state is 0 again wherever the id differs from
///   the one before; the initial state belongs to the first run of a row whose
///   id is 0. A negative id is padding: its output is 0, it changes no state
///   but ends the sequence before it, and its gradients are 0.

/// Throws Error(kUsage) unless `cu_seqlens` starts at 0, does not fall, ends at
/// `length`, and the batch is 1.
void require_cu_seqlens(const char* op, const std::vector<int32_t>& cu_seqlens, int64_t batch, int64_t length);

/// Throws Error(kUsage) unless `seq_idx` is int32 {batch, length}.
void require_seq_idx(const char* op, const mx::array& seq_idx, int64_t batch, int64_t length);

/// `cu_seqlens` as an int32 array {S + 1}, to be an input of a primitive.
mx::array cu_seqlens_array(const std::vector<int32_t>& cu_seqlens);

}  // namespace aspis::ops
