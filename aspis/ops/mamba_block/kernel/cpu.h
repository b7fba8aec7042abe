#pragma once

#include "aspis/ops/mamba_block/kernel/params.h"

namespace aspis::kernel {

/// T is float or double. A task per sample: what lies between the two projections
/// exists for one sample per worker, and without an order for a piece of 64 tokens.
/// An order that is no permutation gives NaN.
template <typename T>
void mamba_block(const MambaBlockParams<T>& p);

/// A task per group of samples, which computes the forward pass of each again and adds up the
/// gradients of its weights; groups are cut by the batch alone and added in order.
template <typename T>
void mamba_block_vjp(const MambaBlockVjpParams<T>& p);

}  // namespace aspis::kernel
