#include "aspis/data/test_support.h"

#include <unistd.h>
#include <zlib.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <fstream>
// jpeglib.h needs FILE and size_t.
#include <jpeglib.h>
#include <png.h>

namespace aspis::data {

TempFolder::TempFolder() {
  static std::atomic<int> count{0};
  path_ = std::filesystem::temp_directory_path() / fmt::format("aspis data {} {}", getpid(), count++);
  std::filesystem::remove_all(path_);
  std::filesystem::create_directories(path_);
}

TempFolder::~TempFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::filesystem::path TempFolder::write(const std::string& name, std::string_view content) const {
  auto path = path_ / name;
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary).write(content.data(), static_cast<std::streamsize>(content.size()));
  return path;
}

Image formula_picture(int height, int width, int channels, uint32_t seed) {
  Image image(height, width, channels);
  uint32_t state = seed;
  for (size_t i = 0; i < image.pixels.size(); ++i) {
    state = state * 1664525u + 1013904223u;
    const size_t flat = (i / 21) % 2 ? 255 : i % 256;
    image.pixels[i] = static_cast<uint8_t>((i / 7) % 3 ? state >> 24 : flat);
  }
  return image;
}

Image smooth_picture(int height, int width, int channels) {
  Image image(height, width, channels);
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      for (int c = 0; c < channels; ++c) {
        image.row(y)[x * channels + c] = static_cast<uint8_t>(40 + 150 * x / width + 40 * y / height + 8 * c);
      }
    }
  }
  return image;
}

namespace {

void append(png_structp png, png_bytep from, size_t count) {
  static_cast<std::string*>(png_get_io_ptr(png))->append(reinterpret_cast<const char*>(from), count);
}

}  // namespace

std::string make_png(int height, int width, const std::vector<uint8_t>& rows, const PngOptions& options) {
  std::string out;
  png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
  png_infop info = png_create_info_struct(png);
  png_set_write_fn(png, &out, append, nullptr);
  png_set_IHDR(png, info, static_cast<png_uint_32>(width), static_cast<png_uint_32>(height), options.bit_depth,
               options.color_type, options.interlaced ? PNG_INTERLACE_ADAM7 : PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  std::vector<png_color> palette;
  for (int i = 0; i < options.palette_colors; ++i) {
    palette.push_back(
        {static_cast<png_byte>(10 * i), static_cast<png_byte>(255 - i), static_cast<png_byte>(3 * i)});
  }
  if (!palette.empty()) png_set_PLTE(png, info, palette.data(), options.palette_colors);
  png_set_check_for_invalid_index(png, -1);
  png_write_info(png, info);
  const size_t row_bytes = rows.size() / static_cast<size_t>(height);
  std::vector<png_bytep> pointers;
  for (int y = 0; y < height; ++y) pointers.push_back(const_cast<png_bytep>(rows.data() + y * row_bytes));
  png_write_image(png, pointers.data());
  png_write_end(png, nullptr);
  png_destroy_write_struct(&png, &info);
  return out;
}

std::string make_jpeg(int height, int width, int channels, const std::vector<uint8_t>& samples,
                      const JpegOptions& options) {
  jpeg_compress_struct info;
  jpeg_error_mgr errors;
  info.err = jpeg_std_error(&errors);
  jpeg_create_compress(&info);
  unsigned char* buffer = nullptr;
  unsigned long size = 0;
  jpeg_mem_dest(&info, &buffer, &size);
  info.image_width = static_cast<JDIMENSION>(width);
  info.image_height = static_cast<JDIMENSION>(height);
  info.input_components = channels;
  info.in_color_space = options.four_colors ? JCS_CMYK : channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
  jpeg_set_defaults(&info);
  if (options.ycck) jpeg_set_colorspace(&info, JCS_YCCK);
  jpeg_set_quality(&info, options.quality, TRUE);
  std::vector<jpeg_scan_info> scans;
  if (options.progressive) jpeg_simple_progression(&info);
  if (options.many_scans) {
    // The mean, then each of the 63 other coefficients in two steps.
    scans.push_back({1, {0}, 0, 0, 0, 0});
    for (int k = 1; k < 64; ++k) scans.push_back({1, {0}, k, k, 0, 1});
    for (int k = 1; k < 64; ++k) scans.push_back({1, {0}, k, k, 1, 0});
    info.scan_info = scans.data();
    info.num_scans = static_cast<int>(scans.size());
  }
  jpeg_start_compress(&info, TRUE);
  if (!options.app1.empty()) {
    jpeg_write_marker(&info, JPEG_APP0 + 1, reinterpret_cast<const JOCTET*>(options.app1.data()),
                      static_cast<unsigned>(options.app1.size()));
  }
  for (int y = 0; y < height; ++y) {
    JSAMPROW rows[1] = {const_cast<JSAMPROW>(samples.data() + static_cast<size_t>(y) * width * channels)};
    jpeg_write_scanlines(&info, rows, 1);
  }
  jpeg_finish_compress(&info);
  std::string out(reinterpret_cast<const char*>(buffer), size);
  jpeg_destroy_compress(&info);
  std::free(buffer);
  return out;
}

std::string make_exif(int orientation, bool big_endian) {
  std::string out("Exif\0\0", 6);
  const auto put = [&](uint32_t value, int bytes) {
    for (int i = 0; i < bytes; ++i) {
      const int place = big_endian ? bytes - 1 - i : i;
      out += static_cast<char>(value >> (8 * place));
    }
  };
  out += big_endian ? "MM" : "II";
  put(42, 2);
  put(8, 4);
  put(2, 2);
  // ImageWidth, which comes before Orientation.
  put(0x0100, 2);
  put(4, 2);
  put(1, 4);
  put(100, 4);
  put(0x0112, 2);
  put(3, 2);
  put(1, 4);
  put(static_cast<uint32_t>(orientation), 2);
  put(0, 2);
  put(0, 4);
  return out;
}

std::string make_idx(const std::vector<int64_t>& shape, const std::vector<uint8_t>& values) {
  std::string out("\0\0\x08", 3);
  out += static_cast<char>(shape.size());
  for (const int64_t n : shape) {
    for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>(n >> shift);
  }
  out.append(reinterpret_cast<const char*>(values.data()), values.size());
  return out;
}

std::string gzip(std::string_view bytes) {
  z_stream stream{};
  REQUIRE(deflateInit2(&stream, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK);
  std::string out(deflateBound(&stream, bytes.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  REQUIRE(deflate(&stream, Z_FINISH) == Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

void write_idx_set(const TempFolder& folder, int train, int test, int height, int width, int classes,
                   bool compressed) {
  for (const bool is_train : {true, false}) {
    const int n = is_train ? train : test;
    if (n == 0) continue;
    std::vector<uint8_t> pixels, labels;
    for (int i = 0; i < n; ++i) {
      labels.push_back(static_cast<uint8_t>(i % classes));
      const Image image = formula_picture(height, width, 1, static_cast<uint32_t>(is_train ? i : 1000 + i));
      pixels.insert(pixels.end(), image.pixels.begin(), image.pixels.end());
    }
    const std::string start = is_train ? "train-" : "t10k-";
    const std::string images_file = make_idx({n, height, width}, pixels), labels_file = make_idx({n}, labels);
    const std::string end = compressed ? ".gz" : "";
    folder.write(start + "images-idx3-ubyte" + end, compressed ? gzip(images_file) : images_file);
    folder.write(start + "labels-idx1-ubyte" + end, compressed ? gzip(labels_file) : labels_file);
  }
}

std::string error_of(ErrorKind kind, const std::function<void()>& f) {
  try {
    f();
  } catch (const Error& e) {
    std::string message = e.what();
    CHECK_MESSAGE(e.kind() == kind, message);
    CHECK_MESSAGE(message.find('\n') == std::string::npos, message);
    return message;
  }
  FAIL("an Error was expected");
  return "";
}

bool contains(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

int damage_everywhere(const std::string& file, const std::function<void(std::string_view)>& read) {
  const auto survives = [&](std::string_view bytes) {
    try {
      read(bytes);
      return true;
    } catch (const Error& e) {
      if (e.kind() != ErrorKind::kData) FAIL("wrong kind of error: " << e.what());
      return false;
    }
  };
  int accepted = 0;
  for (size_t length = 0; length < file.size(); ++length) {
    // An exact copy, so that a read beyond the end is seen by the sanitizer.
    const std::vector<char> part(file.begin(), file.begin() + static_cast<ptrdiff_t>(length));
    accepted += survives({part.data(), part.size()});
  }
  for (size_t at = 0; at < file.size(); ++at) {
    for (const int change : {0x01, 0x80, 0xff}) {
      std::vector<char> part(file.begin(), file.end());
      part[at] = static_cast<char>(part[at] ^ change);
      survives({part.data(), part.size()});
    }
  }
  return accepted;
}

}  // namespace aspis::data
