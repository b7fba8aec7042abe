#include "aspis/data/transform.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "aspis/base/rng.h"
#include "aspis/data/stats.h"

namespace aspis::data {
namespace {

void check_options(const TransformOptions& o) {
  constexpr int kMostSide = 16384;
  const auto check = [](bool ok, const char* required, const std::string& got) {
    require(ok, [&] { return Error::Parts{.where = "transform", .required = required, .got = got}; });
  };
  check(o.height >= 1 && o.width >= 1 && o.height <= kMostSide && o.width <= kMostSide,
        "height and width must lie in 1 to 16384", fmt::format("{} x {}", o.height, o.width));
  check(o.channels == 1 || o.channels == 3, "channels must be 1 or 3", fmt::format("{}", o.channels));
  const auto channels = static_cast<size_t>(o.channels);
  check(o.mean.size() == channels && o.std.size() == channels, "mean and std need one number per channel",
        fmt::format("{} and {} for {} channels", o.mean.size(), o.std.size(), o.channels));
  for (size_t c = 0; c < channels; ++c) {
    check(std::isfinite(o.mean[c]) && std::isfinite(o.std[c]) && o.std[c] > 0,
          "mean must be finite and std positive", fmt::format("{} and {}", o.mean[c], o.std[c]));
  }
  check(o.crop_pct > 0 && o.crop_pct <= 1, "crop_pct must be above 0 and at most 1",
        fmt::format("{}", o.crop_pct));
  check(o.slices >= 1 && o.height % o.slices == 0, "the slices of a volume must divide its height",
        fmt::format("{} and {}", o.slices, o.height));
  check(o.crop_padding >= 0 && o.crop_padding <= std::min(o.height / o.slices, o.width),
        "the crop padding must be at least 0 and at most the smaller side", fmt::format("{}", o.crop_padding));
  check(o.erase_prob >= 0 && o.erase_prob <= 1, "the erase probability must lie in 0 to 1",
        fmt::format("{}", o.erase_prob));
}

// A rectangle of 2 % to 33 % of the area with sides in a ratio of 0.3 to 3.3
// (Zhong et al., "Random erasing data augmentation", 2020). Zero is the mean.
void erase(Rng& rng, int height, int width, int channels, float* out) {
  constexpr int kTries = 10;
  for (int i = 0; i < kTries; ++i) {
    const double area = rng.uniform(0.02, 1.0 / 3) * height * width;
    const double ratio = std::exp(rng.uniform(std::log(0.3), std::log(3.3)));
    const int h = static_cast<int>(std::lround(std::sqrt(area * ratio)));
    const int w = static_cast<int>(std::lround(std::sqrt(area / ratio)));
    if (h < 1 || w < 1 || h >= height || w >= width) continue;
    const auto top = static_cast<int64_t>(rng.below(static_cast<uint64_t>(height - h) + 1));
    const auto left = static_cast<int64_t>(rng.below(static_cast<uint64_t>(width - w) + 1));
    for (int64_t y = top; y < top + h; ++y) {
      float* row = out + (y * width + left) * channels;
      std::fill(row, row + int64_t{w} * channels, 0.0f);
    }
    return;
  }
}

template <int kChannels>
void write_row(const uint8_t* from, int64_t step, int count, const float* table, float* to) {
  for (int x = 0; x < count; ++x, from += step) {
    for (int c = 0; c < kChannels; ++c) to[x * kChannels + c] = table[c * 256 + from[c]];
  }
}

template <int kChannels>
void write_black(int count, const float* table, float* to) {
  for (int x = 0; x < count; ++x) {
    for (int c = 0; c < kChannels; ++c) to[x * kChannels + c] = table[c * 256];
  }
}

// out[y, x] = in[y + dy, x + dx], black outside; mirrored after that.
template <int kChannels>
void shift(const Image& in, int slices, int dy, int dx, bool mirror, const float* table, float* out) {
  const int width = in.width, slice = in.height / slices;
  const int begin = std::clamp(-dx, 0, width), end = std::clamp(width - dx, 0, width);
  for (int y = 0; y < in.height; ++y, out += int64_t{width} * kChannels) {
    const int from_y = y + dy;
    const bool outside = from_y < 0 || from_y >= in.height || from_y / slice != y / slice;
    if (outside || begin >= end) {
      write_black<kChannels>(width, table, out);
      continue;
    }
    const uint8_t* row = in.row(from_y);
    const int left = mirror ? width - end : begin;
    const int right = mirror ? begin : width - end;
    write_black<kChannels>(left, table, out);
    const int first = mirror ? end - 1 : begin;
    write_row<kChannels>(row + int64_t{first + dx} * kChannels, mirror ? -kChannels : kChannels, end - begin,
                         table, out + int64_t{left} * kChannels);
    write_black<kChannels>(right, table, out + int64_t{width - right} * kChannels);
  }
}

}  // namespace

Transform::Transform(TransformOptions options, const Dataset& dataset) : options_(std::move(options)) {
  const Geometry& own = dataset.geometry();
  if (options_.height == 0) options_.height = own.height;
  if (options_.width == 0) options_.width = own.width;
  if (options_.channels == 0) options_.channels = own.channels > 0 ? own.channels : 3;
  if (options_.slices == 0) options_.slices = own.slices;
  require(own.slices == 1 || own == Geometry{options_.height, options_.width, options_.channels, options_.slices},
          [&] {
            return Error::Parts{.where = dataset.name(),
                                .required = fmt::format("volumes keep their size, {} x {} x {}", own.slices,
                                                        own.height / own.slices, own.width),
                                .got = fmt::format("{} x {} x {}", options_.slices,
                                                   options_.height / options_.slices, options_.width),
                                .hint = "leave out --image-size, or a model for that size"};
          });
  require(options_.height != 0 && options_.width != 0, [&] {
    return Error::Parts{.where = dataset.name(),
                        .required = "an image size is needed, because the pictures differ in size",
                        .got = "none",
                        .hint = "set the image size, e.g. 64"};
  });
  finish();
}

Transform::Transform(TransformOptions options) : options_(std::move(options)) {
  if (options_.slices == 0) options_.slices = 1;
  finish();
}

void Transform::finish() {
  if (options_.mean.empty()) options_.mean.assign(static_cast<size_t>(options_.channels), 0.0f);
  if (options_.std.empty()) options_.std.assign(static_cast<size_t>(options_.channels), 1.0f);
  check_options(options_);
  for (int c = 0; c < options_.channels; ++c) {
    for (int v = 0; v < 256; ++v) {
      table_.push_back((static_cast<float>(v) / 255.0f - options_.mean[static_cast<size_t>(c)]) /
                       options_.std[static_cast<size_t>(c)]);
    }
  }
}

bool Transform::prepares_nothing(const Dataset& dataset) const {
  return options_.crop_pct == 1 &&
         dataset.geometry() == Geometry{options_.height, options_.width, options_.channels, options_.slices};
}

Image Transform::prepare(Image image) const {
  Image right = to_channels(std::move(image), options_.channels);
  FitOptions fit{.fit = options_.fit, .filter = options_.filter, .crop_pct = options_.crop_pct};
  for (size_t c = 0; c < options_.mean.size(); ++c) {
    const double mean = std::nearbyint(255.0 * static_cast<double>(options_.mean[c]));
    fit.fill[c] = static_cast<uint8_t>(std::clamp(mean, 0.0, 255.0));
  }
  return fit_picture(right, options_.height, options_.width, fit);
}

void Transform::write_shifted(const Image& prepared, int dy, int dx, bool mirror, float* out) const {
  const bool fits = prepared.height == options_.height && prepared.width == options_.width &&
                    prepared.channels == options_.channels;
  require(fits, [&] {
    return Error::Parts{.where = "transform",
                        .required = fmt::format("a prepared picture of {} x {} x {}", options_.height,
                                                options_.width, options_.channels),
                        .got = fmt::format("{} x {} x {}", prepared.height, prepared.width, prepared.channels)};
  });
  if (options_.channels == 1) {
    shift<1>(prepared, options_.slices, dy, dx, mirror, table_.data(), out);
  } else {
    shift<3>(prepared, options_.slices, dy, dx, mirror, table_.data(), out);
  }
}

void Transform::write(const Image& prepared, float* out) const { write_shifted(prepared, 0, 0, false, out); }

void Transform::write_augmented(const Image& prepared, int64_t epoch, int64_t index, float* out) const {
  Rng rng(options_.seed, "data.augment", static_cast<uint64_t>(epoch), static_cast<uint64_t>(index));
  const int padding = options_.crop_padding;
  const auto shift_of = [&] {
    return padding == 0 ? 0 : static_cast<int>(rng.below(2 * static_cast<uint64_t>(padding) + 1)) - padding;
  };
  const int dy = shift_of(), dx = shift_of();
  const bool mirror = options_.flip && rng.flip();
  write_shifted(prepared, dy, dx, mirror, out);
  if (options_.erase_prob > 0 && rng.uniform() < options_.erase_prob) {
    erase(rng, options_.height, options_.width, options_.channels, out);
  }
}

ChannelStats channel_stats(const Dataset& train, const Transform& transform, int threads, bool skip_damaged,
                           int64_t most_samples) {
  const int64_t n = train.size();
  const int64_t taken = train.in_memory() ? n : std::min(n, std::max<int64_t>(most_samples, 1));
  std::vector<ChannelSums> parts(static_cast<size_t>(std::max(threads, 1)));
  for_each_index(taken, threads, [&](int64_t i, int worker) {
    try {
      parts[static_cast<size_t>(worker)].add(transform.prepare(train.get(i * n / taken).image));
    } catch (const Error& e) {
      if (!skip_damaged || e.kind() != ErrorKind::kData) throw;
    }
  });
  for (size_t i = 1; i < parts.size(); ++i) parts[0].merge(parts[i]);
  return parts[0].finish();
}

}  // namespace aspis::data
