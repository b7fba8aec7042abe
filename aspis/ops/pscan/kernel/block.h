#pragma once

#include <cstdint>

namespace aspis::kernel {

/// Steps [first, last) over some columns of one sample; pointers stand at the
/// block's first column of token 0.
template <typename T>
struct PscanBlock {
  int64_t length = 0, stride = 0, columns = 0, first = 0, last = 0;
  bool backward = false;
  const T *a = nullptr, *x = nullptr;
  T* out = nullptr;  // null: only the state is wanted
  // Backwards, for the gradient of A: the states of the forward pass.
  const T *h = nullptr, *initial = nullptr;
  T* da = nullptr;
};

}  // namespace aspis::kernel
