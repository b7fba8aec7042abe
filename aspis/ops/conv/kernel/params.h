#pragma once

#include <array>
#include <cstdint>

#include "aspis/ops/linear/kernel/epilogue.h"

namespace aspis::kernel {

/// One value for each of depth, height and width; 2-D is depth 1.
using Axes = std::array<int64_t, 3>;

inline int64_t volume(const Axes& a) { return a[0] * a[1] * a[2]; }

/// Everything about a convolution but its data. `padding` is the number of
/// zeros before the first element of an axis; what `out` needs behind the last
/// one is zero as well.
struct ConvShape {
  int64_t batch = 0, in_channels = 0, out_channels = 0, groups = 1;
  Axes in{1, 1, 1}, out{1, 1, 1}, kernel{1, 1, 1}, stride{1, 1, 1}, padding{0, 0, 0}, dilation{1, 1, 1};

  int64_t taps() const { return volume(kernel); }
  int64_t group_in() const { return in_channels / groups; }
  int64_t group_out() const { return out_channels / groups; }
  /// Rows of the output as a matrix {pixels, out_channels}.
  int64_t pixels() const { return batch * volume(out); }
  /// Values that meet one output value.
  int64_t depth() const { return taps() * group_in(); }
  bool depthwise() const { return groups == in_channels && out_channels == in_channels && groups > 1; }
  /// A product with the weight and nothing else.
  bool pointwise() const {
    return groups == 1 && taps() == 1 && in == out && padding == Axes{0, 0, 0} && stride == Axes{1, 1, 1};
  }
};

/// y {batch, out.., out_channels} = f(z) + residual, z from x {batch, in.., in_channels} and weight
/// {out_channels, kernel.., in_channels / groups}, all dense, those of `end` too. `bias` may be null.
template <typename T>
struct ConvParams {
  ConvShape shape;
  const T *x = nullptr, *weight = nullptr, *bias = nullptr;
  T* y = nullptr;
  T* workspace = nullptr;  ///< conv_workspace() values
  Epilogue<T> end = {};
};

/// The gradients for dy; a null output is not computed.
template <typename T>
struct ConvVjpParams {
  ConvShape shape;
  const T *x = nullptr, *weight = nullptr, *dy = nullptr;
  T *dx = nullptr, *dweight = nullptr, *dbias = nullptr;
  T* workspace = nullptr;  ///< conv_vjp_workspace() values
  Activation activation = Activation::kNone;
  const T* pre = nullptr;  ///< z if there is an activation (for kRelu f(z) will do)
  T* dz = nullptr;         ///< of the size of y, written if there is an activation
};

}  // namespace aspis::kernel
