#pragma once

#include "aspis/ops/attention/kernel/params.h"

namespace aspis::kernel {

/// T is float or double. One task per batch, head and block of up to 64
/// queries; memory beside the operands is (keys + dim) x 64 values per worker.
template <typename T>
void attention(const AttentionParams<T>& p);

/// One task per batch and head, which owns its rows of dq, dk and dv. Scores
/// are computed again, a block of queries at a time.
template <typename T>
void attention_vjp(const AttentionVjpParams<T>& p);

}  // namespace aspis::kernel
