#include "aspis/data/image.h"

#include <png.h>
#include <zlib.h>

#include <cmath>
#include <cstdlib>
#include <cstring>

#include "aspis/base/file.h"
#include "aspis/data/codec.h"
#include "aspis/data/heat_map.h"
#include "aspis/data/resize.h"
#include "aspis/data/test_support.h"
#include "aspis/data/transform.h"

namespace aspis::data {
namespace {

const std::filesystem::path kGolden = std::filesystem::path(ASPIS_SOURCE_DIR) / "tests/data";

int largest_difference(const Image& a, const Image& b) {
  REQUIRE(a.height == b.height);
  REQUIRE(a.width == b.width);
  REQUIRE(a.channels == b.channels);
  int largest = 0;
  for (size_t i = 0; i < a.pixels.size(); ++i) largest = std::max(largest, std::abs(a.pixels[i] - b.pixels[i]));
  return largest;
}

TEST_CASE("a PNG is read back as it was written") {
  for (const int channels : {1, 3}) {
    const Image image = formula_picture(13, 17, channels, 5);
    CHECK(decode_image(encode_png(image), "x") == image);
  }
  const TempFolder folder;
  const Image image = formula_picture(3, 4, 3, 1);
  write_png(folder.path() / "a b.png", image);
  CHECK(read_image(folder.path() / "a b.png") == image);
}

TEST_CASE("every PNG type comes out as 8-bit gray or RGB") {
  for (const bool interlaced : {false, true}) {
    CAPTURE(interlaced);
    const int h = 9, w = 11;
    SUBCASE("gray of 1, 2 and 4 bits is expanded") {
      for (const int depth : {1, 2, 4}) {
        const size_t row_bytes = static_cast<size_t>(w * depth + 7) / 8;
        const std::vector<uint8_t> rows(row_bytes * h, 0b10011100);
        const Image image = decode_image(make_png(h, w, rows, {PNG_COLOR_TYPE_GRAY, depth, interlaced}), "x");
        REQUIRE(image.channels == 1);
        const int first = 0b10011100 >> (8 - depth);
        CHECK(image.pixels[0] == first * 255 / ((1 << depth) - 1));
        CHECK(image.pixels[w] == image.pixels[0]);
      }
    }
    SUBCASE("a palette is looked up") {
      std::vector<uint8_t> rows(h * w);
      for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<uint8_t>(i % 5);
      const Image image = decode_image(make_png(h, w, rows, {PNG_COLOR_TYPE_PALETTE, 8, interlaced, 5}), "x");
      REQUIRE(image.channels == 3);
      for (size_t i = 0; i < rows.size(); ++i) {
        REQUIRE(image.pixels[3 * i] == 10 * rows[i]);
        REQUIRE(image.pixels[3 * i + 1] == 255 - rows[i]);
      }
    }
    SUBCASE("16-bit samples keep their high byte") {
      std::vector<uint8_t> rows(h * w * 2 * 3);
      for (size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<uint8_t>(i % 2 ? 0xff : i);
      const Image rgb = decode_image(make_png(h, w, rows, {PNG_COLOR_TYPE_RGB, 16, interlaced}), "x");
      REQUIRE(rgb.channels == 3);
      for (size_t i = 0; i < rgb.pixels.size(); ++i) REQUIRE(rgb.pixels[i] == rows[2 * i]);
      rows.resize(h * w * 2);
      const Image gray = decode_image(make_png(h, w, rows, {PNG_COLOR_TYPE_GRAY, 16, interlaced}), "x");
      REQUIRE(gray.channels == 1);
      for (size_t i = 0; i < gray.pixels.size(); ++i) REQUIRE(gray.pixels[i] == rows[2 * i]);
    }
    SUBCASE("alpha is dropped, not blended") {
      const Image rgba = formula_picture(h, w, 4, 9);
      const Image rgb = decode_image(make_png(h, w, rgba.pixels, {PNG_COLOR_TYPE_RGB_ALPHA, 8, interlaced}), "x");
      REQUIRE(rgb.channels == 3);
      for (size_t i = 0; i < rgb.pixels.size(); ++i) REQUIRE(rgb.pixels[i] == rgba.pixels[i / 3 * 4 + i % 3]);
      const Image la = formula_picture(h, w, 2, 9);
      const Image gray = decode_image(make_png(h, w, la.pixels, {PNG_COLOR_TYPE_GRAY_ALPHA, 8, interlaced}), "x");
      REQUIRE(gray.channels == 1);
      for (size_t i = 0; i < gray.pixels.size(); ++i) REQUIRE(gray.pixels[i] == la.pixels[2 * i]);
    }
  }
}

TEST_CASE("a palette index beyond the palette is an error") {
  std::vector<uint8_t> rows(6 * 6, 2);
  rows[20] = 9;
  const std::string png = make_png(6, 6, rows, {PNG_COLOR_TYPE_PALETTE, 8, false, 4});
  CHECK(contains(error_of(ErrorKind::kData, [&] { decode_image(png, "p.png"); }), "beyond the palette"));
}

TEST_CASE("JPEG of every colour model is decoded") {
  SUBCASE("gray stays gray") {
    const Image image = smooth_picture(20, 31, 1);
    CHECK(largest_difference(decode_image(make_jpeg(image), "x"), image) <= 4);
  }
  SUBCASE("RGB, baseline and progressive") {
    const Image image = smooth_picture(33, 18, 3);
    CHECK(largest_difference(decode_image(make_jpeg(image), "x"), image) <= 10);
    CHECK(largest_difference(decode_image(make_jpeg(image, {.progressive = true}), "x"), image) <= 10);
  }
  SUBCASE("CMYK and YCCK are inverted and follow (1 - C)(1 - K)") {
    const int h = 16, w = 16;
    std::vector<uint8_t> samples;  // inverted: 255 is no ink
    for (int i = 0; i < h * w; ++i) samples.insert(samples.end(), {200, 100, 50, 128});
    for (const bool ycck : {false, true}) {
      const Image rgb =
          decode_image(make_jpeg(h, w, 4, samples, {.quality = 100, .four_colors = true, .ycck = ycck}), "x");
      REQUIRE(rgb.channels == 3);
      CHECK(std::abs(rgb.pixels[0] - 200 * 128 / 255) <= 2);
      CHECK(std::abs(rgb.pixels[1] - 100 * 128 / 255) <= 2);
      CHECK(std::abs(rgb.pixels[2] - 50 * 128 / 255) <= 2);
    }
  }
  SUBCASE("as Pillow decodes CMYK") {
    // One step is left to rounding in other releases of libjpeg.
    CHECK(largest_difference(read_image(kGolden / "cmyk.jpg"), read_image(kGolden / "cmyk.png")) <= 1);
  }
}

TEST_CASE("the EXIF orientation is applied") {
  SUBCASE("files of Pillow") {
    for (const int orientation : {3, 6}) {
      const std::string name = fmt::format("exif_{}", orientation);
      const Image image = read_image(kGolden / (name + ".jpg"));
      CHECK(image.height == (orientation == 6 ? 24 : 16));
      CHECK(largest_difference(image, read_image(kGolden / (name + ".png"))) <= 1);
    }
  }
  SUBCASE("all eight, in both byte orders") {
    const Image stored = smooth_picture(16, 24, 3);
    const Image plain = decode_image(make_jpeg(stored), "x");
    // The stored row and column of the upright picture's top left and bottom left corners.
    struct Corner {
      int orientation, top_y, top_x, bottom_y, bottom_x;
    };
    for (const Corner c :
         {Corner{1, 0, 0, 15, 0}, Corner{2, 0, 23, 15, 23}, Corner{3, 15, 23, 0, 23}, Corner{4, 15, 0, 0, 0},
          Corner{5, 0, 0, 0, 23}, Corner{6, 15, 0, 15, 23}, Corner{7, 15, 23, 15, 0}, Corner{8, 0, 23, 0, 0}}) {
      CAPTURE(c.orientation);
      const Image image =
          decode_image(make_jpeg(stored, {.app1 = make_exif(c.orientation, c.orientation % 2)}), "x");
      REQUIRE(image.height == (c.orientation >= 5 ? 24 : 16));
      REQUIRE(image.width == (c.orientation >= 5 ? 16 : 24));
      CHECK(std::memcmp(image.row(0), plain.row(c.top_y) + 3 * c.top_x, 3) == 0);
      CHECK(std::memcmp(image.row(image.height - 1), plain.row(c.bottom_y) + 3 * c.bottom_x, 3) == 0);
    }
  }
  SUBCASE("damaged EXIF is ignored without reading beyond it") {
    const std::string exif = make_exif(6, false);
    const auto parse = [](const std::string& bytes) {
      const std::vector<uint8_t> copy(bytes.begin(), bytes.end());
      return detail::exif_orientation(copy);
    };
    CHECK(parse(exif) == 6);
    CHECK(parse(make_exif(9, true)) == 1);
    CHECK(parse(make_exif(0, true)) == 1);
    for (size_t length = 0; length < exif.size(); ++length) {
      const int found = parse(exif.substr(0, length));
      CHECK((found == 1 || found == 6));
    }
    for (size_t at = 0; at < exif.size(); ++at) {
      for (int value = 0; value < 256; ++value) {
        std::string changed = exif;
        changed[at] = static_cast<char>(value);
        const int found = parse(changed);
        REQUIRE((found >= 1 && found <= 8));
      }
    }
  }
}

TEST_CASE("a file that is no picture is refused with its name and content") {
  const auto message = [](std::string_view bytes) {
    return error_of(ErrorKind::kData, [&] { decode_image(bytes, "cat.jpg"); });
  };
  CHECK(contains(message("hello world"), "[cat.jpg] a PNG or JPEG picture is required; got 11 bytes"));
  CHECK(contains(message(""), "an empty file"));
  CHECK(contains(message("GIF89a....."), "a GIF"));
  CHECK(contains(message("\xff\xd8\xff"), "cat.jpg"));
  CHECK(contains(message("\x89PNG\r\n\x1a\n"), "cat.jpg"));
  const TempFolder folder;
  CHECK(contains(error_of(ErrorKind::kData, [&] { read_image(folder.path() / "none.png"); }), "none.png"));
}

TEST_CASE("the content decides, not the file name") {
  const TempFolder folder;
  const Image image = formula_picture(4, 4, 3, 1);
  CHECK(read_image(folder.write("a.jpg", encode_png(image))) == image);
}

TEST_CASE("sizes beyond the limits are refused before decoding") {
  std::string png = encode_png(Image(4, 4, 1));
  CHECK(contains(error_of(ErrorKind::kData, [&] { decode_image(png, "x", {.max_side = 3}); }), "4 x 4"));
  CHECK(contains(error_of(ErrorKind::kData, [&] { decode_image(png, "x", {.max_pixels = 15}); }), "15 pixels"));
  CHECK(contains(error_of(ErrorKind::kData, [&] { decode_image(png, "x", {.max_file_bytes = 20}); }), "20 bytes"));
  // A header that promises 16000 x 16000 in 70 bytes; the checksum is not even looked at.
  png[18] = png[22] = 0x3e;
  CHECK(contains(error_of(ErrorKind::kData, [&] { decode_image(png, "x"); }), "fit the length"));
  const std::string jpeg = make_jpeg(smooth_picture(8, 9, 1));
  CHECK(contains(error_of(ErrorKind::kData, [&] { decode_image(jpeg, "x", {.max_side = 8}); }), "9 x 8"));
}

TEST_CASE("a JPEG with too many scans is refused") {
  const std::string jpeg = make_jpeg(smooth_picture(16, 16, 1), {.many_scans = true});
  CHECK(decode_image(jpeg, "x", {.max_scans = 1000}).height == 16);
  CHECK(contains(error_of(ErrorKind::kData, [&] { decode_image(jpeg, "x"); }), "more than 100 scans"));
}

TEST_CASE("no truncation and no changed byte of a picture does harm") {
  const auto read = [](std::string_view bytes) {
    const Image image = decode_image(bytes, "x");
    if (image.pixels.size() != static_cast<size_t>(image.height) * image.row_bytes()) FAIL("wrong size");
  };
  CHECK(damage_everywhere(encode_png(formula_picture(7, 9, 3, 3)), read) == 0);
  std::vector<uint8_t> rows(8 * 8, 1);
  CHECK(damage_everywhere(make_png(8, 8, rows, {PNG_COLOR_TYPE_PALETTE, 8, true, 3}), read) == 0);
  CHECK(damage_everywhere(make_jpeg(smooth_picture(16, 20, 1), {.app1 = make_exif(6, true)}), read) == 0);
  CHECK(damage_everywhere(make_jpeg(smooth_picture(17, 9, 3), {.progressive = true}), read) == 0);
}

TEST_CASE("gray and RGB convert into each other") {
  Image rgb(1, 3, 3);
  rgb.pixels = {255, 255, 255, 10, 20, 30, 0, 0, 255};
  const Image gray = to_channels(rgb, 1);
  CHECK(gray.pixels == std::vector<uint8_t>{255, 18, 29});  // as Pillow's convert("L")
  CHECK(to_channels(gray, 3).pixels == std::vector<uint8_t>{255, 255, 255, 18, 18, 18, 29, 29, 29});
  CHECK(to_channels(gray, 1) == gray);
  error_of(ErrorKind::kUsage, [&] { to_channels(gray, 4); });
}

TEST_CASE("encode_png refuses what is no picture") {
  error_of(ErrorKind::kUsage, [] { encode_png(Image()); });
  Image image(2, 2, 1);
  image.pixels.pop_back();
  error_of(ErrorKind::kUsage, [&] { encode_png(image); });
}

TEST_CASE("resize gives Pillow's result bit for bit") {
  const std::string golden = read_file(kGolden / "resize.golden");
  size_t at = golden.find('\n') + 1;
  int cases = 0;
  while (at < golden.size()) {
    uint32_t h[7];
    std::memcpy(h, golden.data() + at, sizeof h);
    at += sizeof h;
    const Image in = formula_picture(static_cast<int>(h[0]), static_cast<int>(h[1]), static_cast<int>(h[2]), h[6]);
    Image want(static_cast<int>(h[3]), static_cast<int>(h[4]), in.channels);
    std::memcpy(want.pixels.data(), golden.data() + at, want.pixels.size());
    at += want.pixels.size();
    const auto filter = h[5] == 2 ? ResizeFilter::kBilinear : ResizeFilter::kBicubic;
    CAPTURE(cases);
    CHECK(resize(in, want.height, want.width, filter) == want);
    ++cases;
  }
  CHECK(cases == 26);
}

TEST_CASE("pictures are prepared as timm prepares them, bit for bit") {
  const std::string golden = read_file(kGolden / "preprocess.golden");
  const std::vector<float> mean = {0.485f, 0.456f, 0.406f}, std = {0.229f, 0.224f, 0.225f};
  size_t at = golden.find('\n') + 1;
  int cases = 0;
  while (at < golden.size()) {
    uint32_t h[8];
    std::memcpy(h, golden.data() + at, sizeof h);
    at += sizeof h;
    TransformOptions o;
    o.height = static_cast<int>(h[2]);
    o.width = static_cast<int>(h[3]);
    o.channels = 3;
    o.crop_pct = h[4] / 1000.0;
    o.fit = h[5] == 0 ? Fit::kCover : h[5] == 1 ? Fit::kStretch : Fit::kBorder;
    o.filter = h[6] == 2 ? ResizeFilter::kBilinear : ResizeFilter::kBicubic;
    o.mean = mean;
    o.std = std;
    const Transform transform(o);
    const Image in = formula_picture(static_cast<int>(h[0]), static_cast<int>(h[1]), 3, h[7]);
    std::vector<float> got(static_cast<size_t>(transform.values()));
    transform.write(transform.prepare(in), got.data());
    CAPTURE(cases);
    CHECK(std::memcmp(got.data(), golden.data() + at, got.size() * sizeof(float)) == 0);
    at += got.size() * sizeof(float);
    ++cases;
  }
  CHECK(cases == 28);
}

TEST_CASE("the words of a preprocessing are checked") {
  error_of(ErrorKind::kUsage, [] { Transform(TransformOptions{.height = 4, .channels = 3}); });
  for (const Fit fit : {Fit::kCover, Fit::kStretch, Fit::kBorder}) CHECK(parse_fit(to_string(fit)) == fit);
  for (const auto filter : {ResizeFilter::kBilinear, ResizeFilter::kBicubic}) {
    CHECK(parse_resize_filter(to_string(filter)) == filter);
  }
  CHECK(contains(error_of(ErrorKind::kUsage, [] { parse_fit("squish"); }), "squash"));
  CHECK(contains(error_of(ErrorKind::kUsage, [] { parse_resize_filter("bicubik"); }), "bicubic"));
  const Image image = formula_picture(4, 4, 3, 1);
  error_of(ErrorKind::kUsage, [&] { fit_picture(image, 4, 4, {.crop_pct = 0}); });
  error_of(ErrorKind::kUsage, [&] { fit_picture(image, 4, 4, {.crop_pct = 1.5}); });
  // A line of pixels keeps one row when its proportions ask for less.
  CHECK(fit_picture(Image(1, 900, 1, 7), 8, 8, {.fit = Fit::kBorder, .fill = {7}}) == Image(8, 8, 1, 7));
}

TEST_CASE("a heat map lies over its picture, brightest where its values are") {
  const Image picture(4, 6, 3, 128);
  std::vector<float> map(6, 0.0f);
  map[4] = 1;  // row 1, column 1 of 2 x 3: the lower middle
  const Image out = overlay_heat_map(picture, map, 2, 3, 40);
  CHECK(out.height == 40);
  CHECK(out.width == 60);
  const auto at = [&](int y, int x) { return out.row(y) + 3 * x; };
  CHECK(at(39, 30)[0] > at(0, 30)[0] + 80);
  CHECK(at(39, 30)[0] > at(39, 0)[0] + 80);
  CHECK(at(0, 0)[0] == 51);  // 0.4 of the gray, and black
  CHECK(overlay_heat_map(Image(300, 300, 1), std::vector<float>(1, 2.0f), 1, 1).height == 300);
  error_of(ErrorKind::kUsage, [&] { overlay_heat_map(picture, map, 2, 2); });
  map[0] = NAN;
  error_of(ErrorKind::kUsage, [&] { overlay_heat_map(picture, map, 2, 3); });
}

TEST_CASE("a picture without pixels is refused") {
  // PNG: width 0 in the header, its checksum right.
  std::string png = encode_png(Image(4, 4, 1));
  std::memset(png.data() + 16, 0, 4);
  const auto crc = static_cast<uint32_t>(crc32(0, reinterpret_cast<const Bytef*>(png.data() + 12), 17));
  for (int i = 0; i < 4; ++i) png[29 + i] = static_cast<char>(crc >> (24 - 8 * i));
  CHECK(contains(error_of(ErrorKind::kData, [&] { decode_image(png, "empty.png"); }), "empty.png"));
  // JPEG: height 0 in the frame header.
  std::string jpeg = make_jpeg(smooth_picture(8, 8, 1));
  const size_t frame = jpeg.find("\xff\xc0");
  REQUIRE(frame != std::string::npos);
  jpeg[frame + 5] = jpeg[frame + 6] = 0;
  CHECK(contains(error_of(ErrorKind::kData, [&] { decode_image(jpeg, "empty.jpg"); }), "empty.jpg"));
}

TEST_CASE("resize_cover keeps proportions and cuts the middle") {
  const Image image = formula_picture(20, 60, 3, 1);
  const Image square = resize_cover(image, 10, 10);
  CHECK(square == center_crop(resize(image, 10, 30), 10, 10));
  // A strip of 60,000 to 1 neither fails nor needs 60,000 times the memory.
  const Image strip = resize_cover(Image(60000, 1, 1, 77), 32, 32);
  CHECK(strip == Image(32, 32, 1, 77));
  error_of(ErrorKind::kUsage, [&] { center_crop(image, 21, 5); });
  error_of(ErrorKind::kUsage, [&] { resize(image, 0, 5); });
}

}  // namespace
}  // namespace aspis::data
