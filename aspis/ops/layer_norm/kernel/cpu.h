#pragma once

#include "aspis/ops/layer_norm/kernel/params.h"

namespace aspis::kernel {

/// T is float or double. Runs on the team, in blocks of rows whose size depends
/// on the shape only.
template <typename T>
void layer_norm(const LayerNormParams<T>& p);
template <typename T>
void layer_norm_vjp(const LayerNormVjpParams<T>& p);

/// Values of T that layer_norm_vjp needs as scratch for each of dweight and dbias.
int64_t layer_norm_vjp_scratch(int64_t rows, int64_t length);

}  // namespace aspis::kernel
