#pragma once

#include "aspis/ops/conv/kernel/params.h"

namespace aspis::kernel {

/// T is float or double. Both run on the team; results do not depend on the
/// number of threads.
template <typename T>
void conv(const ConvParams<T>& p);
template <typename T>
void conv_vjp(const ConvVjpParams<T>& p);

/// The transposed convolution: dx from dy, plus a bias {in_channels} or null, for
/// parameters whose other outputs are null.
template <typename T>
void conv_transpose(const ConvVjpParams<T>& p, const T* bias);

/// Values of T that the workspace must hold; 0 is possible.
int64_t conv_workspace(const ConvShape& s);
int64_t conv_vjp_workspace(const ConvShape& s, bool dx, bool dweight, bool dbias);

}  // namespace aspis::kernel
