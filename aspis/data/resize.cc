#include "aspis/data/resize.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace aspis::data {
namespace {

// 8 bits of sample and 2 of overshoot leave 22 bits for a weight in an int32.
constexpr int kWeightBits = 32 - 8 - 2;
constexpr int32_t kHalf = 1 << (kWeightBits - 1);

double triangle(double x) {
  x = std::fabs(x);
  return x < 1.0 ? 1.0 - x : 0.0;
}

// Keys' cubic convolution kernel with a = -1/2 ("Cubic convolution interpolation
// for digital image processing", 1981, equation 15).
double cubic(double x) {
  constexpr double a = -0.5;
  x = std::fabs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
  if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
  return 0.0;
}

// For each output position the first input sample it reads, how many, and their
// weights (`taps` apart).
struct Weights {
  int taps = 0;
  std::vector<int> first;
  std::vector<int> count;
  std::vector<int32_t> values;
};

Weights make_weights(int in_size, int out_size, ResizeFilter filter) {
  const double radius = filter == ResizeFilter::kBilinear ? 1.0 : 2.0;
  const double scale = static_cast<double>(in_size) / out_size;
  const double stretch = std::max(scale, 1.0);
  const double support = radius * stretch;
  const double inverse = 1.0 / stretch;
  Weights w;
  w.taps = static_cast<int>(std::ceil(support)) * 2 + 1;
  w.first.resize(static_cast<size_t>(out_size));
  w.count.resize(static_cast<size_t>(out_size));
  w.values.resize(static_cast<size_t>(out_size) * w.taps);
  std::vector<double> real(static_cast<size_t>(w.taps));
  for (int i = 0; i < out_size; ++i) {
    const double center = (i + 0.5) * scale;
    const int begin = std::max(static_cast<int>(center - support + 0.5), 0);
    const int end = std::min(static_cast<int>(center + support + 0.5), in_size);
    double sum = 0.0;
    for (int k = 0; k < end - begin; ++k) {
      const double at = (k + begin - center + 0.5) * inverse;
      real[k] = filter == ResizeFilter::kBilinear ? triangle(at) : cubic(at);
      sum += real[k];
    }
    w.first[i] = begin;
    w.count[i] = end - begin;
    for (int k = 0; k < end - begin; ++k) {
      const double scaled = (sum != 0.0 ? real[k] / sum : real[k]) * (1 << kWeightBits);
      w.values[static_cast<size_t>(i) * w.taps + k] = static_cast<int32_t>(scaled + (scaled < 0 ? -0.5 : 0.5));
    }
  }
  return w;
}

uint8_t to_sample(int32_t sum) { return static_cast<uint8_t>(std::clamp(sum >> kWeightBits, 0, 255)); }

template <int kChannels>
void resize_row(const uint8_t* in, uint8_t* out, int out_width, const Weights& w) {
  for (int x = 0; x < out_width; ++x) {
    const uint8_t* from = in + static_cast<ptrdiff_t>(w.first[x]) * kChannels;
    const int32_t* weight = w.values.data() + static_cast<size_t>(x) * w.taps;
    int32_t sums[kChannels];
    std::fill(sums, sums + kChannels, kHalf);
    for (int k = 0; k < w.count[x]; ++k) {
      for (int c = 0; c < kChannels; ++c) sums[c] += from[k * kChannels + c] * weight[k];
    }
    for (int c = 0; c < kChannels; ++c) out[x * kChannels + c] = to_sample(sums[c]);
  }
}

Image resize_columns(const Image& image, int width, ResizeFilter filter) {
  const Weights w = make_weights(image.width, width, filter);
  Image out(image.height, width, image.channels);
  for (int y = 0; y < image.height; ++y) {
    if (image.channels == 1) {
      resize_row<1>(image.row(y), out.row(y), width, w);
    } else {
      resize_row<3>(image.row(y), out.row(y), width, w);
    }
  }
  return out;
}

Image resize_rows(const Image& image, int height, ResizeFilter filter) {
  const Weights w = make_weights(image.height, height, filter);
  Image out(height, image.width, image.channels);
  const int64_t bytes = image.row_bytes();
  std::vector<int32_t> sums(static_cast<size_t>(bytes));
  for (int y = 0; y < height; ++y) {
    std::fill(sums.begin(), sums.end(), kHalf);
    for (int k = 0; k < w.count[y]; ++k) {
      const uint8_t* from = image.row(w.first[y] + k);
      const int32_t weight = w.values[static_cast<size_t>(y) * w.taps + k];
      for (int64_t i = 0; i < bytes; ++i) sums[i] += from[i] * weight;
    }
    uint8_t* to = out.row(y);
    for (int64_t i = 0; i < bytes; ++i) to[i] = to_sample(sums[i]);
  }
  return out;
}

constexpr int kStripMargin = 8;
constexpr int kStripRatio = 16;

int round_half_even_div2(int n) {
  const int half = n / 2;
  return n % 2 == 0 ? half : half + (half % 2);
}

struct Size {
  int height, width;
};

// The size with the picture's own proportions that covers the target or, with
// `inside`, fits into it. torchvision truncates the longer side of a square
// target; timm rounds half to even otherwise.
Size scaled_size(const Image& image, const Size& target, bool inside) {
  if (!inside && target.height == target.width) {
    const int64_t longer = int64_t{target.height} * std::max(image.height, image.width);
    const auto cut = static_cast<int>(static_cast<double>(longer) / std::min(image.height, image.width));
    return image.width <= image.height ? Size{cut, target.width} : Size{target.height, cut};
  }
  const double h = static_cast<double>(image.height) / target.height;
  const double w = static_cast<double>(image.width) / target.width;
  const double ratio = inside ? std::max(h, w) : std::min(h, w);
  const auto rounded = [&](int n) { return std::max(1, static_cast<int>(std::nearbyint(n / ratio))); };
  return {rounded(image.height), rounded(image.width)};
}

// The middle of a picture; where it is too small, `fill` goes around it, the odd
// pixel to the bottom and right.
Image crop_or_pad(const Image& image, int height, int width, const std::array<uint8_t, 3>& fill) {
  Image middle = center_crop(image, std::min(height, image.height), std::min(width, image.width));
  if (middle.height == height && middle.width == width) return middle;
  Image out(height, width, image.channels);
  const int c = image.channels, top = (height - middle.height) / 2, left = (width - middle.width) / 2;
  for (size_t i = 0; i < out.pixels.size(); ++i) out.pixels[i] = fill[i % static_cast<size_t>(c)];
  for (int y = 0; y < middle.height; ++y) {
    std::memcpy(out.row(top + y) + int64_t{left} * c, middle.row(y), static_cast<size_t>(middle.row_bytes()));
  }
  return out;
}

template <typename E>
E parse_word(const char* where, std::string_view name, std::initializer_list<E> values) {
  std::vector<std::string> words;
  for (const E value : values) {
    if (name == to_string(value)) return value;
    words.push_back(to_string(value));
  }
  throw Error(ErrorKind::kUsage, {.where = where,
                                  .required = fmt::format("it must be one of {}", fmt::join(words, ", ")),
                                  .got = fmt::format("'{}'", name),
                                  .hint = nearest_word(name, words)});
}

}  // namespace

Image resize(const Image& image, int height, int width, ResizeFilter filter) {
  constexpr int kMaxSide = 65535;
  require(height >= 1 && width >= 1 && height <= kMaxSide && width <= kMaxSide && image.height >= 1 &&
              image.width >= 1,
          [&] {
            return Error::Parts{
                .where = "resize",
                .required = fmt::format("sizes must lie in 1 to {}", kMaxSide),
                .got = fmt::format("{} x {} to {} x {}", image.height, image.width, height, width)};
          });
  // The columns first: that order is part of the bit-exact result.
  if (width == image.width && height == image.height) return image;
  if (width == image.width) return resize_rows(image, height, filter);
  Image wide = resize_columns(image, width, filter);
  return height == image.height ? wide : resize_rows(wide, height, filter);
}

Image center_crop(const Image& image, int height, int width) {
  require(height >= 1 && width >= 1 && height <= image.height && width <= image.width, [&] {
    return Error::Parts{.where = "center_crop",
                        .required = "the crop must fit into the picture",
                        .got = fmt::format("{} x {} of {} x {}", height, width, image.height, image.width)};
  });
  if (height == image.height && width == image.width) return image;
  const int top = round_half_even_div2(image.height - height);
  const int left = round_half_even_div2(image.width - width);
  Image out(height, width, image.channels);
  for (int y = 0; y < height; ++y) {
    std::memcpy(out.row(y), image.row(top + y) + int64_t{left} * image.channels,
                static_cast<size_t>(out.row_bytes()));
  }
  return out;
}

Image resize_cover(const Image& image, int height, int width, ResizeFilter filter) {
  return fit_picture(image, height, width, {.fit = Fit::kCover, .filter = filter});
}

std::string to_string(ResizeFilter filter) { return filter == ResizeFilter::kBilinear ? "bilinear" : "bicubic"; }
std::string to_string(Fit fit) {
  return fit == Fit::kCover ? "center" : fit == Fit::kStretch ? "squash" : "border";
}
ResizeFilter parse_resize_filter(std::string_view name) {
  return parse_word("interpolation", name, {ResizeFilter::kBilinear, ResizeFilter::kBicubic});
}
Fit parse_fit(std::string_view name) {
  return parse_word("crop_mode", name, {Fit::kCover, Fit::kStretch, Fit::kBorder});
}

Image fit_picture(const Image& image, int height, int width, const FitOptions& o) {
  require(height >= 1 && width >= 1 && image.height >= 1 && image.width >= 1 && o.crop_pct > 0 && o.crop_pct <= 1,
          [&] {
            return Error::Parts{.where = "fit_picture",
                                .required = "sizes must be at least 1 and crop_pct in (0, 1]",
                                .got = fmt::format("{} x {} to {} x {}, crop_pct {}", image.height, image.width,
                                                   height, width, o.crop_pct)};
          });
  if (image.height == height && image.width == width && o.crop_pct == 1) return image;
  const Size target{static_cast<int>(std::floor(height / o.crop_pct)),
                    static_cast<int>(std::floor(width / o.crop_pct))};
  if (o.fit == Fit::kStretch) {
    return center_crop(resize(image, target.height, target.width, o.filter), height, width);
  }
  if (o.fit == Fit::kBorder) {
    const Size scaled = scaled_size(image, target, true);
    return crop_or_pad(resize(image, scaled.height, scaled.width, o.filter), height, width, o.fill);
  }
  // A strip of extreme proportions would grow beyond every limit: only its
  // middle can be seen, so the rest is cut off first.
  const double scale =
      std::max(static_cast<double>(target.height) / image.height, static_cast<double>(target.width) / image.width);
  const int seen_h = std::min<int>(image.height, static_cast<int>(target.height / scale) + kStripMargin);
  const int seen_w = std::min<int>(image.width, static_cast<int>(target.width / scale) + kStripMargin);
  const bool strip = image.height > kStripRatio * seen_h || image.width > kStripRatio * seen_w;
  if (strip) return fit_picture(center_crop(image, seen_h, seen_w), height, width, o);
  const Size scaled = scaled_size(image, target, false);
  return center_crop(resize(image, scaled.height, scaled.width, o.filter), height, width);
}

}  // namespace aspis::data
