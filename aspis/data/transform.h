#pragma once

#include <cstdint>
#include <vector>

#include "aspis/data/dataset.h"
#include "aspis/data/resize.h"

namespace aspis::data {

/// What happens to a picture between the data set and the model.
struct TransformOptions {
  // Always. A zero takes the data set's own size.
  int height = 0;
  int width = 0;
  int channels = 0;
  int slices = 0;
  Fit fit = Fit::kCover;
  ResizeFilter filter = ResizeFilter::kBicubic;
  double crop_pct = 1;  ///< see FitOptions
  /// Of samples in [0, 1]; out = (v - mean) / std. Empty: 0 and 1.
  std::vector<float> mean = {};
  std::vector<float> std = {};

  // In training only. The random numbers depend on (seed, epoch, index) alone.
  /// Shift by up to so many pixels in each direction (random crop from the
  /// picture padded with black).
  int crop_padding = 0;
  bool flip = false;      ///< mirror left to right with probability 1/2
  double erase_prob = 0;  ///< cover a random rectangle (2 % to 33 % of the area) with the mean
  uint64_t seed = 0;
};

/// Turns pictures into normalised floats, HWC. Immutable and thread-safe.
class Transform {
 public:
  /// Fills zeros in `options` from the data set. Throws `Error(kUsage)` for
  /// values out of range, and where the data set's size varies and none is given.
  Transform(TransformOptions options, const Dataset& dataset);
  /// For pictures from elsewhere: height, width and channels must be given.
  explicit Transform(TransformOptions options);

  const TransformOptions& options() const { return options_; }
  int64_t values() const { return int64_t{options_.height} * options_.width * options_.channels; }

  /// The fixed part: channels and size. Costly for large pictures, so loaders keep its result.
  Image prepare(Image image) const;
  /// True if prepare() leaves every picture of the set as it is.
  bool prepares_nothing(const Dataset& dataset) const;

  /// Normalises a prepared picture into `values()` floats.
  void write(const Image& prepared, float* out) const;
  /// Augments and normalises it.
  void write_augmented(const Image& prepared, int64_t epoch, int64_t index, float* out) const;

 private:
  void finish();  // checks the options and makes the table
  void write_shifted(const Image& prepared, int dy, int dx, bool mirror, float* out) const;

  TransformOptions options_;
  std::vector<float> table_;  // {channels, 256}: the float of each 8-bit sample
};

/// Mean and standard deviation of each channel over prepared training pictures,
/// in exact integer sums: the same for any number of threads. Of a set that is
/// not in memory at most `most_samples` are read, evenly spaced. Damaged pictures
/// are left out if `skip_damaged`, else their error is thrown.
ChannelStats channel_stats(const Dataset& train, const Transform& transform, int threads = 1,
                           bool skip_damaged = false, int64_t most_samples = 10000);

}  // namespace aspis::data
