#pragma once

#include "aspis/ops/row_norm/kernel/params.h"

namespace aspis::kernel {

/// S is float, double or Bf16. Runs on the team, in blocks whose size depends on
/// the shape only.
template <typename S>
void row_norm(const RowNormParams<S>& p);
template <typename S>
void row_norm_vjp(const RowNormVjpParams<S>& p);
template <typename S>
void column_norm(const ColumnNormParams<S>& p);
template <typename S>
void column_norm_vjp(const ColumnNormVjpParams<S>& p);

/// Values of the arithmetic type that the gradients need as scratch for each of
/// dweight and dbias.
int64_t row_norm_vjp_scratch(int64_t rows, int64_t length);
int64_t column_norm_vjp_scratch(int64_t samples, int64_t length, int64_t positions);

}  // namespace aspis::kernel
