#pragma once

#include "aspis/ops/linear/kernel/params.h"

namespace aspis::kernel {

/// T is float or double. Both run on the team. The result of a row does not
/// depend on the number of threads, nor (where gemm_rows_are_independent()) on
/// the number of rows.
template <typename T>
void linear(const LinearParams<T>& p);
template <typename T>
void linear_vjp(const LinearVjpParams<T>& p);

/// Values of T that the workspace must hold; 0 is possible.
int64_t linear_workspace(int64_t rows, int64_t in, int64_t out);
int64_t linear_vjp_workspace(int64_t rows, int64_t in, int64_t out, bool dweight, bool dbias);

}  // namespace aspis::kernel
