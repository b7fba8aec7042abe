#pragma once

#include <cstddef>

#include "aspis/ops/causal_conv1d/kernel/params.h"

namespace aspis::kernel {

/// T is float or double. Runs on the team; the split depends on the sizes only.
/// If `order` is not a permutation of 0 .. L-1 all outputs are NaN: nothing
/// outside the arrays is touched and the mistake cannot go unseen.
template <typename T>
void conv1d(const Conv1dParams<T>& p);
template <typename T>
void conv1d_vjp(const Conv1dVjpParams<T>& p);

/// Bytes of scratch the two need; only the sizes of `p` are looked at.
template <typename T>
size_t conv1d_workspace(const Conv1dParams<T>& p);
template <typename T>
size_t conv1d_vjp_workspace(const Conv1dVjpParams<T>& p);

/// Whether order[0 .. n) holds each of 0 .. n-1 once.
bool is_permutation(const int32_t* order, int64_t n);

}  // namespace aspis::kernel
