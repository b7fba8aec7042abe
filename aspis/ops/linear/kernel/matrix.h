#pragma once

#include <cstdint>

/// Small steps around matrix products that convolutions share with `linear`.
/// T is float or double; every instruction set gives the same bits.
namespace aspis::kernel {

/// y {rows, cols} += bias {cols}, on the calling thread.
template <typename T>
void add_bias(T* y, int64_t stride, int64_t rows, int64_t cols, const T* bias);

/// sums {cols} = sum over rows of g {rows, cols}, row after row, on the calling thread.
template <typename T>
void column_sums(const T* g, int64_t stride, int64_t rows, int64_t cols, T* sums);

/// to {n} = the sum of `parts` rows of from {parts, n} in order, on the team.
template <typename T>
void sum_parts(const T* from, int64_t parts, int64_t n, T* to);

/// to {cols, rows} = from {rows, cols}^T, on the team.
template <typename T>
void transpose(const T* from, int64_t stride, int64_t rows, int64_t cols, T* to);

}  // namespace aspis::kernel
