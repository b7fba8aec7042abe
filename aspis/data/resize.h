#pragma once

#include "aspis/data/image.h"

namespace aspis::data {

enum class ResizeFilter { kBilinear, kBicubic };

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

/// Scales so that the picture just covers height x width with its own
/// proportions, then cuts the middle out: the usual evaluation view.
Image resize_cover(const Image& image, int height, int width, ResizeFilter filter = ResizeFilter::kBicubic);

}  // namespace aspis::data
