#pragma once

#include "aspis/ops/common/primitive.h"

namespace aspis::ops {

/// An input seen as rows of its last axis: row r starts at data + r * stride.
template <typename T>
struct Rows {
  const T* data = nullptr;
  int64_t stride = 0;
};

/// Rows of an array with at least one axis. Costs nothing when the last axis is
/// contiguous and the others have one common step (a slice along the last axis,
/// a broadcast row); else a packed copy is dispatched first.
template <typename T>
Rows<T> rows(mx::cpu::CommandEncoder& encoder, const mx::array& a, const char* op) {
  const int last = static_cast<int>(a.ndim()) - 1;
  const int64_t length = a.shape(last);
  bool usable = a.size() > 0 && (a.strides()[last] == 1 || length == 1);
  int64_t stride = length, next = 0;  // next: the step that the axis before must have
  bool first = true;
  for (int i = last - 1; usable && i >= 0; i--) {
    if (a.shape(i) == 1) continue;
    if (first) {
      stride = a.strides()[i];
      first = false;
    } else {
      usable = a.strides()[i] == next;
    }
    next = a.strides()[i] * a.shape(i);
  }
  if (!usable) return {packed<T>(encoder, a, op), length};
  encoder.set_input_array(a);
  return {a.data<T>(), stride};
}

/// Number of rows of the last axis.
inline int64_t row_count(const mx::array& a) {
  int64_t n = 1;
  for (int i = 0; i + 1 < static_cast<int>(a.ndim()); i++) n *= a.shape(i);
  return n;
}

}  // namespace aspis::ops
