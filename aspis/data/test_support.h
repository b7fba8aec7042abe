#pragma once

// Shared by the tests of aspis/data: temporary folders, pictures by formula, and
// PNG, JPEG and IDX files made on the spot.

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "aspis/base/error.h"
#include "aspis/data/dataset.h"
#include "aspis/data/image.h"

namespace aspis::data {

/// A fresh folder that goes away with the object.
class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  const std::filesystem::path& path() const { return path_; }
  /// Writes a file, making its folders.
  std::filesystem::path write(const std::string& name, std::string_view content) const;
  /// An absolute spec such as "folder:/tmp/x".
  std::string spec(const std::string& kind) const { return kind + ":" + path_.string(); }

 private:
  std::filesystem::path path_;
};

/// The formula of tools/golden/make_resize.py.
Image formula_picture(int height, int width, int channels, uint32_t seed);
/// A ramp without hard edges, for JPEG.
Image smooth_picture(int height, int width, int channels);

struct PngOptions {
  int color_type;  ///< of libpng
  int bit_depth = 8;
  bool interlaced = false;
  int palette_colors = 0;
};
/// Writes rows exactly as given (packed, big-endian for 16 bits).
std::string make_png(int height, int width, const std::vector<uint8_t>& rows, const PngOptions& options);

struct JpegOptions {
  int quality = 90;
  bool progressive = false;
  bool many_scans = false;   ///< 127 scans; gray only
  bool four_colors = false;  ///< samples are CMYK
  bool ycck = false;
  std::string app1 = {};  ///< payload of an APP1 segment
};
/// `samples` are HWC with 1, 3, or (four_colors) 4 channels.
std::string make_jpeg(int height, int width, int channels, const std::vector<uint8_t>& samples,
                      const JpegOptions& options = {});
inline std::string make_jpeg(const Image& image, const JpegOptions& options = {}) {
  return make_jpeg(image.height, image.width, image.channels, image.pixels, options);
}

/// An EXIF block with an orientation entry.
std::string make_exif(int orientation, bool big_endian);

std::string make_idx(const std::vector<int64_t>& shape, const std::vector<uint8_t>& values);
std::string gzip(std::string_view bytes);

/// The four files of an IDX set of height x width pictures; labels cycle through `classes`.
void write_idx_set(const TempFolder& folder, int train, int test, int height = 6, int width = 5, int classes = 3,
                   bool compressed = false);

/// Runs `f` and returns the message of the Error it must throw; checks the kind
/// and that the message is one line.
std::string error_of(ErrorKind kind, const std::function<void()>& f);

bool contains(std::string_view text, std::string_view part);

/// Feeds every truncation and three changes of every byte to `read`, which must
/// return or throw Error(kData). Returns how many truncations were accepted.
int damage_everywhere(const std::string& file, const std::function<void(std::string_view)>& read);

}  // namespace aspis::data
