#pragma once

// Internal to aspis/data: the two decoders behind decode_image().

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "aspis/data/image.h"

namespace aspis::data::detail {

Image decode_png(std::string_view bytes, std::string_view name, const ImageLimits& limits);
Image decode_jpeg(std::string_view bytes, std::string_view name, const ImageLimits& limits);

/// The EXIF orientation (tag 0x0112 of the first directory) in the payload of an
/// APP1 segment, or 1 if it is absent, out of range or damaged: broken metadata
/// does not make a picture unusable.
int exif_orientation(std::span<const uint8_t> app1);

/// Refuses sizes beyond the limits, and sizes that a file of so few bytes cannot
/// hold, so that a small hostile file cannot ask for gigabytes.
void check_picture_size(int64_t width, int64_t height, size_t file_bytes, std::string_view name,
                        const ImageLimits& limits);

[[noreturn]] void throw_damaged(std::string_view name, std::string_view format, std::string_view detail);

}  // namespace aspis::data::detail
