#pragma once

#include "aspis/ops/conv/kernel/params.h"

namespace aspis::kernel {

/// Taps [first_tap, first_tap + taps) of one group: the columns of one product.
struct ColumnBlock {
  int64_t group = 0, first_tap = 0, taps = 0;
};

/// Input positions [first, last) along one axis (0 depth, 1 height): the part
/// of dx that one task owns.
struct Band {
  int axis = 1;
  int64_t first = 0, last = 0;
};

/// Output pixels that the depthwise form computes at a time.
constexpr int64_t kPixels = 4;

/// Some output pixels of a depthwise convolution: `in[tap * kPixels + i]` is the
/// input row {channels} that tap meets at pixel i, or a row of zeros.
template <typename T>
struct DepthwisePixels {
  int64_t channels = 0, taps = 0, pixels = 0;
  const T* const* in = nullptr;
  const T* weight = nullptr;  ///< {taps, channels}
  const T* bias = nullptr;    ///< {channels} or null
  T* out[kPixels] = {};
};

/// One row of outputs of a depthwise convolution with stride and dilation 1
/// along it. Row r of the window starts at `in[r]`, {width + taps - 1, channels}
/// with the padding already there, and meets `weight[r]` {taps, channels}.
template <typename T>
struct DepthwiseRow {
  int64_t channels = 0, width = 0, taps = 0, rows = 0;
  const T* const* in = nullptr;
  const T* const* weight = nullptr;
  const T* bias = nullptr;  ///< {channels} or null
  T* out = nullptr;         ///< {width, channels}; for the weight's gradient, where dy is read
};

/// Widths of the window along a row that have a loop of their own.
constexpr bool has_row_loop(int64_t taps) { return taps == 3 || taps == 5 || taps == 7; }

}  // namespace aspis::kernel
