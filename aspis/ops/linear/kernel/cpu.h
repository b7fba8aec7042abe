#pragma once

#include "aspis/ops/linear/kernel/params.h"

namespace aspis::kernel {

/// T is float or double. Both run on the team. A row of y and dx depends on
/// neither the number of threads nor the number of rows, bit for bit (with
/// Accelerate on Apple the latter is not promised).
template <typename T>
void linear(const LinearParams<T>& p);
template <typename T>
void linear_vjp(const LinearVjpParams<T>& p);

/// The same with Bf16 storage, W = Bf16 or float: sums in float, by the units for
/// bfloat16 where `bf16_units()` says so (pairs.h), else in float32 throughout.
/// dbias is float, dweight as W. Between the two the last bits differ.
template <typename W>
void half_linear(const LinearParams<Bf16, W>& p);
template <typename W>
void half_linear_vjp(const LinearVjpParams<Bf16, W>& p);

/// Values of Arithmetic<T> that the workspace must hold; 0 is possible.
int64_t linear_workspace(int64_t rows, int64_t in, int64_t out);
int64_t linear_vjp_workspace(int64_t rows, int64_t in, int64_t out, bool dx, bool dweight, bool dbias);
/// The same for Bf16 storage.
int64_t half_linear_workspace(int64_t rows, int64_t in, int64_t out);
int64_t half_linear_vjp_workspace(int64_t rows, int64_t in, int64_t out, bool dx, bool dweight, bool dbias);

}  // namespace aspis::kernel
