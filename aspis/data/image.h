#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "aspis/base/error.h"

namespace aspis::data {

/// A picture of 8-bit samples, rows from the top, HWC: the value of channel `c`
/// at row `y`, column `x` is `pixels[(y * width + x) * channels + c]`.
/// `channels` is 1 (gray) or 3 (RGB).
struct Image {
  int height = 0;
  int width = 0;
  int channels = 0;
  std::vector<uint8_t> pixels;

  Image() = default;
  Image(int h, int w, int c, uint8_t fill = 0);

  int64_t row_bytes() const { return int64_t{width} * channels; }
  const uint8_t* row(int y) const { return pixels.data() + y * row_bytes(); }
  uint8_t* row(int y) { return pixels.data() + y * row_bytes(); }
  bool operator==(const Image&) const = default;
};

/// What a decoder may be asked to do. Checked against the header before a pixel
/// buffer is allocated.
struct ImageLimits {
  int max_side = 65535;
  int64_t max_pixels = int64_t{1} << 28;
  int64_t max_file_bytes = int64_t{1} << 29;
  int64_t max_decoder_bytes = int64_t{1} << 31;  ///< working memory of the JPEG decoder
  int max_scans = 100;                           ///< a legal JPEG can hold thousands: hours of work
};

/// Decodes a PNG or JPEG by its content; `name` is only for error sentences.
/// The result is gray if the file is gray and RGB otherwise:
///
///   - palettes and 1-, 2- and 4-bit gray are expanded; 16-bit samples keep their
///     high byte; interlaced files are read in full;
///   - alpha is dropped, not blended, and colour profiles and gamma are ignored,
///     as in Pillow's `convert("RGB")`, with which published accuracies were made;
///   - CMYK and YCCK JPEGs are taken as inverted (Adobe's way) and go to RGB with
///     Pillow's formula;
///   - the EXIF orientation of a JPEG is applied.
///
/// Throws `Error(kData)` naming the file for every kind of damage, decoder
/// warnings included, and for what passes the limits. Thread-safe.
Image decode_image(std::string_view bytes, std::string_view name, const ImageLimits& limits = {});

/// `decode_image` of a file's content.
Image read_image(const std::filesystem::path& path, const ImageLimits& limits = {});

/// The bytes of an 8-bit PNG. Throws `Error(kUsage)` for an empty picture or a
/// channel count other than 1 and 3.
std::string encode_png(const Image& image);

/// Writes a PNG file in place of `path`, whole or not at all.
void write_png(const std::filesystem::path& path, const Image& image);

/// Gray to RGB by copying, RGB to gray by ITU-R 601 weights in Pillow's integer
/// form; the same picture if `channels` is already right.
Image to_channels(Image image, int channels);

/// Mirrors and turns a stored picture so that it stands upright; `orientation`
/// is the EXIF value 1 to 8, anything else leaves it as it is.
Image apply_orientation(Image image, int orientation);

/// A path for an error sentence: valid UTF-8 whatever bytes the name holds.
std::string shown_path(const std::filesystem::path& path);

}  // namespace aspis::data
