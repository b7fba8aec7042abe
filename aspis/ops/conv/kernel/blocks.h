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

}  // namespace aspis::kernel
