#pragma once

#include "aspis/ops/attention/kernel/params.h"

namespace aspis::kernel {

/// (T, S) is (float, float), (double, double) or (float, Bf16). One task per
/// sequence, head and block of up to 64 queries; scratch is about 256 x (64 + dim)
/// values per worker for any length.
template <typename T, typename S>
void attention(const AttentionParams<T, S>& p);

/// One task per sequence and head of k and v, which owns its rows of dk and dv;
/// few tasks of long sequences are cut by keys, and the parts of dq added in
/// order. Scores are computed again, a panel at a time.
template <typename T, typename S>
void attention_vjp(const AttentionVjpParams<T, S>& p);

}  // namespace aspis::kernel
