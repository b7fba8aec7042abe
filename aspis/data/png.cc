// PNG through libpng's row interface. The simplified interface and the
// quantiser, where several of libpng's memory faults were, are not used, and
// ancillary chunks are skipped unread (transparency excepted, which is parsed
// and dropped).
//
// libpng reports errors by longjmp. Everything between a setjmp and the calls
// below it therefore lives in functions that hold plain values only; vectors
// and exceptions stay outside.

#include <fmt/format.h>
#include <png.h>

#include <csetjmp>
#include <cstdio>
#include <cstring>

#include "aspis/data/codec.h"

namespace aspis::data::detail {
namespace {

struct Reader {
  png_structp png = nullptr;
  png_infop info = nullptr;
  const char* position = nullptr;
  size_t left = 0;
  int passes = 1;
  int channels = 0;
  size_t row_bytes = 0;
  bool indexed = false;
  png_colorp palette = nullptr;  // owned by libpng
  int colors = 0;
  std::jmp_buf jump;
  char message[160] = "";

  ~Reader() {
    if (png) png_destroy_read_struct(&png, info ? &info : nullptr, nullptr);
  }
};

[[noreturn]] void on_read_error(png_structp png, png_const_charp message) {
  auto* reader = static_cast<Reader*>(png_get_error_ptr(png));
  std::snprintf(reader->message, sizeof reader->message, "%s", message);
  std::longjmp(reader->jump, 1);
}

void on_warning(png_structp, png_const_charp) {}

void read_bytes(png_structp png, png_bytep to, size_t count) {
  auto* reader = static_cast<Reader*>(png_get_io_ptr(png));
  if (count > reader->left) png_error(png, "the file ends too early");
  std::memcpy(to, reader->position, count);
  reader->position += count;
  reader->left -= count;
}

// Reads up to the first pixel and asks for 8-bit gray or RGB rows.
bool read_header(Reader* reader) {
  if (setjmp(reader->jump)) return false;
  png_structp png = reader->png;
  png_set_read_fn(png, reader, read_bytes);
  png_set_crc_action(png, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
  png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);
  png_set_chunk_malloc_max(png, 1 << 23);
  png_set_user_limits(png, 0x7fffffff, 0x7fffffff);  // check_picture_size() decided already
  png_read_info(png, reader->info);
  const int depth = png_get_bit_depth(png, reader->info);
  const int color = png_get_color_type(png, reader->info);
  // Palette indices are kept and looked up in look_up_palette(), within bounds.
  if (color == PNG_COLOR_TYPE_PALETTE && depth < 8) png_set_packing(png);
  if (color == PNG_COLOR_TYPE_GRAY && depth < 8) png_set_expand_gray_1_2_4_to_8(png);
  if (depth == 16) png_set_strip_16(png);
  if (color & PNG_COLOR_MASK_ALPHA) png_set_strip_alpha(png);
  reader->passes = png_set_interlace_handling(png);
  png_read_update_info(png, reader->info);
  reader->channels = png_get_channels(png, reader->info);
  reader->row_bytes = png_get_rowbytes(png, reader->info);
  reader->indexed = color == PNG_COLOR_TYPE_PALETTE;
  if (reader->indexed) png_get_PLTE(png, reader->info, &reader->palette, &reader->colors);
  return true;
}

bool read_rows(Reader* reader, uint8_t* pixels, int height) {
  if (setjmp(reader->jump)) return false;
  for (int pass = 0; pass < reader->passes; ++pass) {
    for (int y = 0; y < height; ++y) {
      png_read_row(reader->png, pixels + static_cast<size_t>(y) * reader->row_bytes, nullptr);
    }
  }
  png_read_end(reader->png, nullptr);
  return true;
}

Image look_up_palette(const Image& indices, const Reader& reader, std::string_view name) {
  Image image(indices.height, indices.width, 3);
  for (size_t i = 0; i < indices.pixels.size(); ++i) {
    const int index = indices.pixels[i];
    if (index >= reader.colors) throw_damaged(name, "PNG", "a pixel that names a colour beyond the palette");
    const png_color& color = reader.palette[index];
    image.pixels[3 * i] = color.red;
    image.pixels[3 * i + 1] = color.green;
    image.pixels[3 * i + 2] = color.blue;
  }
  return image;
}

uint32_t big_endian_u32(std::string_view bytes, size_t at) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) value = value << 8 | static_cast<unsigned char>(bytes[at + i]);
  return value;
}

struct Writer {
  png_structp png = nullptr;
  png_infop info = nullptr;
  std::string out;
  std::jmp_buf jump;
  char message[160] = "";

  ~Writer() {
    if (png) png_destroy_write_struct(&png, info ? &info : nullptr);
  }
};

[[noreturn]] void on_write_error(png_structp png, png_const_charp message) {
  auto* writer = static_cast<Writer*>(png_get_error_ptr(png));
  std::snprintf(writer->message, sizeof writer->message, "%s", message);
  std::longjmp(writer->jump, 1);
}

void write_bytes(png_structp png, png_bytep from, size_t count) {
  auto* writer = static_cast<Writer*>(png_get_io_ptr(png));
  bool ok = true;
  try {
    writer->out.append(reinterpret_cast<const char*>(from), count);
  } catch (...) {
    ok = false;  // an exception must not pass through C frames
  }
  if (!ok) png_error(png, "not enough memory");
}

void flush_bytes(png_structp) {}

bool write_rows(Writer* writer, const uint8_t* pixels, int height, int width, int channels) {
  if (setjmp(writer->jump)) return false;
  png_structp png = writer->png;
  png_set_write_fn(png, writer, write_bytes, flush_bytes);
  png_set_IHDR(png, writer->info, static_cast<png_uint_32>(width), static_cast<png_uint_32>(height), 8,
               channels == 1 ? PNG_COLOR_TYPE_GRAY : PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
               PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
  png_write_info(png, writer->info);
  for (int y = 0; y < height; ++y) png_write_row(png, pixels + static_cast<size_t>(y) * width * channels);
  png_write_end(png, nullptr);
  return true;
}

}  // namespace

Image decode_png(std::string_view bytes, std::string_view name, const ImageLimits& limits) {
  constexpr size_t kSizeAt = 16;  // width and height in the first chunk, IHDR
  if (bytes.size() < kSizeAt + 8 || bytes.substr(12, 4) != "IHDR") throw_damaged(name, "PNG", "no PNG header");
  const int64_t width = big_endian_u32(bytes, kSizeAt), height = big_endian_u32(bytes, kSizeAt + 4);
  check_picture_size(width, height, bytes.size(), name, limits);

  Reader reader;
  reader.position = bytes.data();
  reader.left = bytes.size();
  reader.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &reader, on_read_error, on_warning);
  if (reader.png) reader.info = png_create_info_struct(reader.png);
  if (!reader.info) throw Error(ErrorKind::kDevice, {.where = std::string(name), .required = "memory for libpng"});
  if (!read_header(&reader)) throw_damaged(name, "PNG", reader.message);
  const bool expected = (reader.channels == 1 || reader.channels == 3) &&
                        reader.row_bytes == static_cast<size_t>(width * reader.channels) &&
                        png_get_image_width(reader.png, reader.info) == width &&
                        png_get_image_height(reader.png, reader.info) == height;
  if (!expected) throw_damaged(name, "PNG", "a header that contradicts itself");
  Image image(static_cast<int>(height), static_cast<int>(width), reader.channels);
  if (!read_rows(&reader, image.pixels.data(), image.height)) throw_damaged(name, "PNG", reader.message);
  if (reader.indexed) return look_up_palette(image, reader, name);
  return image;
}

}  // namespace aspis::data::detail

namespace aspis::data {

std::string encode_png(const Image& image) {
  const bool valid = image.height >= 1 && image.width >= 1 && (image.channels == 1 || image.channels == 3) &&
                     image.pixels.size() == static_cast<size_t>(image.height) * image.width * image.channels;
  require(valid, [&] {
    return Error::Parts{.where = "encode_png",
                        .required = "a picture needs a height and a width, 1 or 3 channels and as many samples",
                        .got = fmt::format("{} x {} x {} with {} samples", image.height, image.width,
                                           image.channels, image.pixels.size())};
  });
  detail::Writer writer;
  writer.png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &writer, detail::on_write_error, detail::on_warning);
  if (writer.png) writer.info = png_create_info_struct(writer.png);
  if (!writer.info) throw Error(ErrorKind::kDevice, {.where = "encode_png", .required = "memory for libpng"});
  if (!detail::write_rows(&writer, image.pixels.data(), image.height, image.width, image.channels)) {
    throw Error(ErrorKind::kRuntime,
                {.where = "encode_png", .required = "libpng must accept the picture", .got = writer.message});
  }
  return std::move(writer.out);
}

}  // namespace aspis::data
