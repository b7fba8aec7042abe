#pragma once

#include <cstdint>

namespace aspis::kernel {

/// Copies of rows in K orders, and their sum back. All dense.
template <typename T>
struct CrossParams {
  int64_t batch = 0, orders = 0, length = 0, width = 0;
  const int32_t* index = nullptr;  ///< {K, L}: steps for cross_scan, places for cross_merge
  T scale = 1;
  const T* from = nullptr;
  T* to = nullptr;
};

/// to {B, K, L, width}: row l of order k is scale times row index_{k, l} of from {B, L, width}.
template <typename T>
void cross_scan(const CrossParams<T>& p);

/// to {B, L, width}: row t is scale times the sum over k of row index_{k, t} of from {B, K, L, width}.
template <typename T>
void cross_merge(const CrossParams<T>& p);

}  // namespace aspis::kernel
