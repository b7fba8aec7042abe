#pragma once

#include <cstdint>
#include <vector>

namespace aspis::kernel {

/// A linear map along one axis: output i is the sum over its taps k in
/// [first[i], first[i + 1]) of weight[k] * input[index[k]]. Taps are sorted by index.
struct AxisTable {
  int64_t in = 0, out = 0;
  std::vector<int64_t> first;  ///< out + 1
  std::vector<int32_t> index;
  std::vector<double> weight;

  bool operator==(const AxisTable&) const = default;
  bool is_identity() const;
  /// The map of gradients: input and output change places.
  AxisTable transposed() const;
};

/// Leaves an axis as it is.
AxisTable identity_table(int64_t size);

/// Size of a pooled axis: floor((in + 2 padding - dilation (window - 1) - 1) / stride) + 1, or with
/// `ceil_mode` rounded up, where a last window that would begin in the padding behind the end is left out.
int64_t pooled_size(int64_t in, int64_t window, int64_t stride, int64_t padding, int64_t dilation, bool ceil_mode);

/// Mean of windows as torch.nn.AvgPool takes it: padding counts as zeros if
/// `count_padding`, else only what lies inside counts.
AxisTable average_table(int64_t in, int64_t window, int64_t stride, int64_t padding, bool ceil_mode,
                        bool count_padding);

/// Mean over [floor(i in / out), ceil((i + 1) in / out)), torch.nn.AdaptiveAvgPool.
AxisTable adaptive_average_table(int64_t in, int64_t out);

/// Windows of a maximum: the taps of torch.nn.MaxPool (padding is left out) and of
/// AdaptiveMaxPool. The weight of a tap is its number within the window.
AxisTable window_table(int64_t in, int64_t window, int64_t stride, int64_t padding, int64_t dilation,
                       bool ceil_mode);
AxisTable adaptive_window_table(int64_t in, int64_t out);

enum class Interpolation { kNearest, kNearestExact, kLinear, kCubic };

/// How torch.nn.functional.interpolate maps an axis of `in` values to `out`.
/// `scale` is the factor the caller gave for the size, or 0 for out / in. Cubic
/// has a = -0.75, with `antialias` (linear and cubic) a = -0.5 and a kernel as
/// wide as the step.
AxisTable interpolation_table(int64_t in, int64_t out, Interpolation mode, bool align_corners, bool antialias,
                              double scale);

}  // namespace aspis::kernel
