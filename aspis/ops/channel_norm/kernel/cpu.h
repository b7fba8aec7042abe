#pragma once

#include "aspis/ops/channel_norm/kernel/params.h"

namespace aspis::kernel {

/// S is float, double or Bf16. Runs on the team, in blocks of rows whose size
/// depends on the shape only.
template <typename S>
void channel_norm(const ChannelNormParams<S>& p);
template <typename S>
void channel_norm_vjp(const ChannelNormVjpParams<S>& p);

/// Values of the arithmetic type that each of the two needs as scratch.
int64_t channel_norm_scratch(int64_t samples, int64_t rows, int64_t channels);

}  // namespace aspis::kernel
