#pragma once

#include <cstdint>

/// The vector part of the convolution: a few token rows at a time, lanes over
/// channels. cpu.cc decides which rows. Private to this folder.
namespace aspis::kernel {

inline constexpr int kConv1dSteps = 4;  ///< most outputs of one call
inline constexpr int kConv1dTaps = 16;  ///< most taps of one call; wider filters take several

/// Weights and bias are packed so that one pointer serves a vector of channels:
/// for each vector W tap vectors, then the bias. The block that begins at
/// channel c (a multiple of the lanes) is at packed + c (W + 1), whatever the
/// instruction set. Gradients of the weights are summed in the same layout.
inline constexpr int64_t kConv1dPad = 16;  ///< channels are padded to a multiple of this
inline int64_t conv1d_packed_size(int64_t channels, int64_t width) {
  return (channels + kConv1dPad - 1) / kConv1dPad * kConv1dPad * (width + 1);
}

/// out_s = start + sum_{k < taps} w_{first_tap + k} in_{s+k}, then silu if asked for.
template <typename T>
struct Conv1dRows {
  int64_t channels = 0, width = 1;
  int steps = 0, taps = 0;
  int64_t first_tap = 0;
  bool start_from_out = false;  ///< start is what `out` holds, else the packed bias
  bool silu = false;
  const T* packed = nullptr;
  const T* in[kConv1dSteps + kConv1dTaps - 1] = {};
  T* out[kConv1dSteps] = {};
};

/// dpre_s = dout_s silu'(pre_s), sums += products of dpre and the inputs.
template <typename T>
struct Conv1dGradRows {
  Conv1dRows<T> rows;  ///< `out` receives dpre
  const T* dout[kConv1dSteps] = {};
  T* sums = nullptr;  ///< packed; zero before the first call
};

/// One causal token with a filter of 2 to 4 taps, in one pass over its channels:
/// out = bias + sum_k w_k input_k, and the inputs but the first become the next state.
template <typename T>
struct Conv1dToken {
  int64_t channels = 0, width = 1;
  bool silu = false;
  const T* weight = nullptr;  ///< {channels, W}
  const T* bias = nullptr;    ///< or null
  const T* state = nullptr;   ///< W-1 rows, or null: zeros
  int64_t state_stride = 0;
  const T* x = nullptr;
  T* out = nullptr;
  T* next = nullptr;  ///< W-1 rows or null; may be `state`
  int64_t next_stride = 0;
};

/// Functions of the active instruction set.
template <typename T>
struct Conv1dRowKernels {
  void (*pack)(const T* weight, const T* bias, int64_t channels, int64_t width, bool flip, T* packed);
  void (*unpack)(const T* packed, int64_t channels, int64_t width, T* weight, T* bias);
  void (*conv)(const Conv1dRows<T>& a);
  /// For widths 2 to 4: pre-activation, dpre and sums in one pass.
  void (*grad)(const Conv1dGradRows<T>& a);
  /// For other widths: sums alone, `out` holds dpre. The bias is added with first_tap == 0.
  void (*accumulate)(const Conv1dGradRows<T>& a);
  void (*silu_grad)(const T* dout, T* pre, int64_t n);  ///< pre = dout silu'(pre)
  void (*add)(const T* x, T* y, int64_t n);             ///< y += x
  void (*token)(const Conv1dToken<T>& a);
};
template <typename T>
Conv1dRowKernels<T> conv1d_row_kernels();

}  // namespace aspis::kernel
