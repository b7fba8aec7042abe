#pragma once

#include <cstdint>
#include <vector>

#include "aspis/ops/common/sequences.h"

namespace aspis::kernel {

/// Depthwise convolution over the tokens of {B, L, D}. x may have its channels
/// apart (channels-first data): tiles of it are turned as they are needed.
///
/// Steps t = 0 .. L-1 visit the token `token(t)`: order[t] or t, counted from
/// the end with `reverse`. With x_t the input of step t,
///
///     pre_t[d] = bias_d + sum_k w_{d,k} x_{t-reach+k}[d],   out_t = silu(pre_t) or pre_t
///
/// x_t with t < 0 is initial[W-1+t] or 0, with t >= L it is 0. With `sequences`
/// that holds for each of them, L being its length. Strides count
/// elements; inputs may have strides of 0, `out` and the gradients are dense.
template <typename T>
struct Conv1dParams {
  int64_t batch = 0, length = 0, channels = 0, width = 1;
  int64_t reach = 0;  ///< taps to the left: W-1 (causal) or floor((W-1)/2) (symmetric)
  bool silu = false, reverse = false;
  const std::vector<Sequence>* sequences = nullptr;  ///< null: every row is one
  int64_t states = 0;                                ///< initial and final states, if there are sequences
  const int32_t* order = nullptr;  ///< {L} permutation, or null

  const T* x = nullptr;
  int64_t x_batch = 0, x_token = 0, x_channel = 1;
  const T* weight = nullptr;   ///< {D, W}, dense
  const T* bias = nullptr;     ///< {D}, dense, or null
  const T* initial = nullptr;  ///< {states, W-1, D} or null
  int64_t initial_batch = 0, initial_token = 0;

  T* out = nullptr;          ///< {B, L, D}, dense
  T* final_state = nullptr;  ///< {states, W-1, D}, dense, or null: the last W-1 inputs

  void* workspace = nullptr;  ///< `conv1d_workspace` bytes

  int64_t state_count() const { return sequences ? states : batch; }
  /// The token of step t of a sequence.
  int64_t token(const Sequence& q, int64_t t) const {
    const int64_t at = q.first + (reverse ? q.length - 1 - t : t);
    return order ? order[at] : at;
  }
  /// The same where the row is one.
  int64_t token(int64_t t) const {
    if (reverse) t = length - 1 - t;
    return order ? order[t] : t;
  }
};

/// Gradients of Conv1dParams' out and final state. `forward.out` and
/// `forward.final_state` are not used; outputs are dense.
template <typename T>
struct Conv1dVjpParams {
  Conv1dParams<T> forward;
  const T* dout = nullptr;
  int64_t dout_batch = 0, dout_token = 0;
  const T* dfinal = nullptr;  ///< {states, W-1, D} or null
  int64_t dfinal_batch = 0, dfinal_token = 0;

  T* dx = nullptr;        ///< {B, L, D}
  T* dweight = nullptr;   ///< {D, W}
  T* dbias = nullptr;     ///< {D} or null
  T* dinitial = nullptr;  ///< {states, W-1, D} or null

  void* workspace = nullptr;  ///< `conv1d_vjp_workspace` bytes
};

}  // namespace aspis::kernel
