#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "aspis/data/image.h"

namespace aspis::data {

enum class ResizeFilter { kBilinear, kBicubic };

/// "bilinear", "bicubic". Parsing throws `Error(kUsage)` with the nearest word.
std::string to_string(ResizeFilter filter);
ResizeFilter parse_resize_filter(std::string_view name);

/// How a picture of another size comes to the wanted one; timm's crop modes.
enum class Fit {
  kCover,    ///< "center": scale until it covers the target, cut the middle out
  kStretch,  ///< "squash": scale each side by itself
  kBorder,   ///< "border": scale until it fits into the target, fill the rest
};
std::string to_string(Fit fit);
Fit parse_fit(std::string_view name);

struct FitOptions {
  Fit fit = Fit::kCover;
  ResizeFilter filter = ResizeFilter::kBicubic;
  /// The target is this share of what the picture is scaled to, in (0, 1]; the
  /// middle is cut out.
  double crop_pct = 1;
  std::array<uint8_t, 3> fill = {};  ///< of kBorder
};

/// The view of a picture that is evaluated: bit for bit timm's
/// `transforms_imagenet_eval`. Only strips longer than 16 to 1 differ under
/// kCover: most of what cannot be seen is cut off before scaling. Throws
/// `Error(kUsage)` for sizes and options out of range.
Image fit_picture(const Image& image, int height, int width, const FitOptions& options = {});

/// Scales a picture to height x width with a separable filter that is widened
/// when shrinking (antialiased), in 8-bit samples and 22-bit fixed-point
/// weights: bit for bit what Pillow's `Image.resize` gives for gray and RGB with
/// BILINEAR and BICUBIC, so that accuracies can be compared (releases up to 12;
/// 13 changed the order of the passes in some cases, see
/// tools/golden/make_resize.py). Throws `Error(kUsage)` for an empty picture or a target size outside 1 to 65535.
Image resize(const Image& image, int height, int width, ResizeFilter filter = ResizeFilter::kBicubic);

/// The part of height x width around the middle. Where the margin is odd, half of
/// it is rounded to even, as torchvision's centre crop does. Throws
/// `Error(kUsage)` if the picture is smaller.
Image center_crop(const Image& image, int height, int width);

/// `fit_picture` without margin: scales so that the picture just covers height x
/// width with its own proportions, then cuts the middle out.
Image resize_cover(const Image& image, int height, int width, ResizeFilter filter = ResizeFilter::kBicubic);

}  // namespace aspis::data
