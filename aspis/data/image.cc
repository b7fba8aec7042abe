#include "aspis/data/image.h"

#include <fmt/format.h>

#include <cstring>
#include <utility>

#include "aspis/base/file.h"
#include "aspis/base/utf8.h"
#include "aspis/data/codec.h"

namespace aspis::data {
namespace {

constexpr std::string_view kPngSignature("\x89PNG\r\n\x1a\n", 8);
constexpr std::string_view kJpegSignature("\xff\xd8\xff", 3);

// What a file that is no picture looks like, for the error sentence.
std::string describe_content(std::string_view bytes) {
  if (bytes.empty()) return "an empty file";
  struct Known {
    std::string_view start;
    const char* name;
  };
  static constexpr Known kKnown[] = {{"GIF8", "a GIF"},          {"BM", "a BMP"},
                                     {"II*", "a TIFF"},          {"MM", "a TIFF"},
                                     {"%PDF", "a PDF"},          {"PK\x03\x04", "a zip archive"},
                                     {"\x1f\x8b", "a gzip file"}};
  for (const Known& k : kKnown) {
    if (bytes.starts_with(k.start)) return fmt::format("{} of {} bytes", k.name, bytes.size());
  }
  if (bytes.size() >= 12 && bytes.starts_with("RIFF") && bytes.substr(8, 4) == "WEBP") return "a WebP picture";
  std::string start;
  for (const char c : bytes.substr(0, 8)) {
    const auto u = static_cast<unsigned char>(c);
    start += u >= 0x20 && u < 0x7f ? std::string(1, c) : fmt::format("\\x{:02x}", u);
  }
  return fmt::format("{} bytes that start with \"{}\"", bytes.size(), start);
}

}  // namespace

Image::Image(int h, int w, int c, uint8_t fill)
    : height(h), width(w), channels(c), pixels(static_cast<size_t>(h) * w * c, fill) {}

std::string shown_path(const std::filesystem::path& path) { return to_valid_utf8(path.string()); }

namespace detail {

void throw_damaged(std::string_view name, std::string_view format, std::string_view detail) {
  throw Error(ErrorKind::kData, {.where = std::string(name),
                                 .required = fmt::format("a whole, undamaged {} is required", format),
                                 .got = to_valid_utf8(detail)});
}

void check_picture_size(int64_t width, int64_t height, size_t file_bytes, std::string_view name,
                        const ImageLimits& limits) {
  // Deflate and Huffman-coded JPEG stay below about 1030 to 1 and 512 to 1.
  constexpr int64_t kMostPixelsPerByte = 1100 * 8;
  const bool fits = width >= 1 && height >= 1 && width <= limits.max_side && height <= limits.max_side &&
                    width * height <= limits.max_pixels;
  if (!fits) {
    throw Error(ErrorKind::kData, {.where = std::string(name),
                                   .required = fmt::format(
                                       "a picture must be 1 to {} pixels wide and high and hold at most {} pixels",
                                       limits.max_side, limits.max_pixels),
                                   .got = fmt::format("{} x {}", width, height)});
  }
  if (width * height / kMostPixelsPerByte > static_cast<int64_t>(file_bytes)) {
    throw Error(ErrorKind::kData, {.where = std::string(name),
                                   .required = "the size in the header must fit the length of the file",
                                   .got = fmt::format("{} x {} pixels in {} bytes", width, height, file_bytes)});
  }
}

}  // namespace detail

Image decode_image(std::string_view bytes, std::string_view name, const ImageLimits& limits) {
  if (static_cast<int64_t>(bytes.size()) > limits.max_file_bytes) {
    throw Error(ErrorKind::kData,
                {.where = std::string(name),
                 .required = fmt::format("a picture file may have at most {} bytes", limits.max_file_bytes),
                 .got = fmt::format("{}", bytes.size())});
  }
  if (bytes.starts_with(kPngSignature)) return detail::decode_png(bytes, name, limits);
  if (bytes.starts_with(kJpegSignature)) return detail::decode_jpeg(bytes, name, limits);
  throw Error(ErrorKind::kData, {.where = std::string(name),
                                 .required = "a PNG or JPEG picture is required",
                                 .got = describe_content(bytes)});
}

Image read_image(const std::filesystem::path& path, const ImageLimits& limits) {
  const std::string bytes = read_file(path, ErrorKind::kData, limits.max_file_bytes);
  return decode_image(bytes, shown_path(path), limits);
}

void write_png(const std::filesystem::path& path, const Image& image) {
  write_file_atomic(path, encode_png(image), /*durable=*/false);
}

Image to_channels(Image image, int channels) {
  require(channels == 1 || channels == 3, [&] {
    return Error::Parts{
        .where = "to_channels", .required = "channels must be 1 or 3", .got = fmt::format("{}", channels)};
  });
  if (image.channels == channels) return image;
  Image out(image.height, image.width, channels);
  const size_t count = static_cast<size_t>(image.height) * image.width;
  const uint8_t* in = image.pixels.data();
  uint8_t* to = out.pixels.data();
  for (size_t i = 0; i < count; ++i) {
    if (channels == 3) {
      std::memset(to + 3 * i, in[i], 3);
    } else {
      // Weights of ITU-R 601 in 1/65536.
      const uint32_t sum = in[3 * i] * 19595u + in[3 * i + 1] * 38470u + in[3 * i + 2] * 7471u + 0x8000u;
      to[i] = static_cast<uint8_t>(sum >> 16);
    }
  }
  return out;
}

Image apply_orientation(Image image, int orientation) {
  if (orientation < 2 || orientation > 8) return image;
  // Where the upright pixel (y, x) lies in the stored picture. Orientations 5 to
  // 8 swap the sides; bit by bit: mirror columns, mirror rows.
  const bool swap_sides = orientation >= 5;
  const bool mirror_x = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const bool mirror_y = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  const int c = image.channels;
  Image out(swap_sides ? image.width : image.height, swap_sides ? image.height : image.width, c);
  for (int y = 0; y < out.height; ++y) {
    uint8_t* to = out.row(y);
    for (int x = 0; x < out.width; ++x) {
      const int stored_y = swap_sides ? x : y;
      const int stored_x = swap_sides ? y : x;
      const int from_y = mirror_y ? image.height - 1 - stored_y : stored_y;
      const int from_x = mirror_x ? image.width - 1 - stored_x : stored_x;
      std::memcpy(to + int64_t{x} * c, image.row(from_y) + int64_t{from_x} * c, static_cast<size_t>(c));
    }
  }
  return out;
}

}  // namespace aspis::data
