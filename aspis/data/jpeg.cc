// JPEG through libjpeg-turbo. As with PNG, errors arrive by longjmp, so the
// functions that hold a setjmp hold plain values only. Warnings (corrupt
// entropy data, missing end) are errors: half a picture would train the model
// on gray.

#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <vector>

// jpeglib.h needs size_t and FILE declared before it.
#include <fmt/format.h>
#include <jpeglib.h>

#include "aspis/data/codec.h"

namespace aspis::data::detail {
namespace {

struct Reader {
  jpeg_decompress_struct info;
  jpeg_error_mgr errors;
  jpeg_progress_mgr progress;
  std::jmp_buf jump;
  int max_scans = 0;
  bool created = false;
  char message[JMSG_LENGTH_MAX] = "";

  ~Reader() {
    if (created) jpeg_destroy_decompress(&info);
  }
};

[[noreturn]] void fail(j_common_ptr info) {
  auto* reader = static_cast<Reader*>(info->client_data);
  info->err->format_message(info, reader->message);
  std::longjmp(reader->jump, 1);
}

void on_message(j_common_ptr info, int level) {
  if (level < 0) fail(info);
}

void on_progress(j_common_ptr info) {
  auto* reader = static_cast<Reader*>(info->client_data);
  if (reader->info.input_scan_number <= reader->max_scans) return;
  std::snprintf(reader->message, sizeof reader->message, "more than %d scans", reader->max_scans);
  std::longjmp(reader->jump, 1);
}

bool read_header(Reader* reader, const uint8_t* bytes, size_t size, long max_memory) {
  jpeg_decompress_struct* info = &reader->info;
  info->err = jpeg_std_error(&reader->errors);
  reader->errors.error_exit = fail;
  reader->errors.emit_message = on_message;
  info->client_data = reader;
  if (setjmp(reader->jump)) return false;
  jpeg_create_decompress(info);
  reader->created = true;
  info->client_data = reader;
  info->mem->max_memory_to_use = max_memory;
  reader->progress.progress_monitor = on_progress;
  info->progress = &reader->progress;
  jpeg_save_markers(info, JPEG_APP0 + 1, 0xffff);
  jpeg_mem_src(info, bytes, static_cast<unsigned long>(size));
  jpeg_read_header(info, TRUE);
  return true;
}

uint8_t multiply_255(uint32_t a, uint32_t b) {
  const uint32_t t = a * b + 128;
  return static_cast<uint8_t>(((t >> 8) + t) >> 8);
}

// Adobe stores CMYK inverted: 255 is no ink. Then R = (1 - C)(1 - K).
void inverted_cmyk_to_rgb(const uint8_t* cmyk, uint8_t* rgb, int width) {
  for (int x = 0; x < width; ++x, cmyk += 4, rgb += 3) {
    const uint32_t light = cmyk[3];
    for (int c = 0; c < 3; ++c) {
      rgb[c] = static_cast<uint8_t>(light - multiply_255(255u - cmyk[c], light));
    }
  }
}

// `cmyk_row` is null unless the file has four components.
bool read_rows(Reader* reader, uint8_t* pixels, size_t row_bytes, uint8_t* cmyk_row) {
  if (setjmp(reader->jump)) return false;
  jpeg_decompress_struct* info = &reader->info;
  jpeg_start_decompress(info);
  while (info->output_scanline < info->output_height) {
    uint8_t* to = pixels + info->output_scanline * row_bytes;
    JSAMPROW rows[1] = {cmyk_row ? cmyk_row : to};
    jpeg_read_scanlines(info, rows, 1);
    if (cmyk_row) inverted_cmyk_to_rgb(cmyk_row, to, static_cast<int>(info->output_width));
  }
  jpeg_finish_decompress(info);
  return true;
}

int orientation_of(const jpeg_decompress_struct& info) {
  for (const jpeg_marker_struct* m = info.marker_list; m; m = m->next) {
    const int orientation = exif_orientation({m->data, m->data_length});
    if (orientation != 1) return orientation;
  }
  return 1;
}

}  // namespace

Image decode_jpeg(std::string_view bytes, std::string_view name, const ImageLimits& limits) {
  Reader reader;
  reader.max_scans = limits.max_scans;
  if (!read_header(&reader, reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size(),
                   static_cast<long>(limits.max_decoder_bytes))) {
    throw_damaged(name, "JPEG", reader.message);
  }
  jpeg_decompress_struct& info = reader.info;
  check_picture_size(info.image_width, info.image_height, bytes.size(), name, limits);
  int channels = 3;
  std::vector<uint8_t> cmyk_row;
  switch (info.jpeg_color_space) {
    case JCS_GRAYSCALE:
      info.out_color_space = JCS_GRAYSCALE;
      channels = 1;
      break;
    case JCS_RGB:
    case JCS_YCbCr:
      info.out_color_space = JCS_RGB;
      break;
    case JCS_CMYK:
    case JCS_YCCK:
      info.out_color_space = JCS_CMYK;
      cmyk_row.resize(size_t{4} * info.image_width);
      break;
    default:
      throw Error(ErrorKind::kData, {.where = std::string(name),
                                     .required = "a gray, RGB or CMYK JPEG is required",
                                     .got = fmt::format("{} components", info.num_components)});
  }
  const int orientation = orientation_of(info);  // the markers are gone after the last row
  Image image(static_cast<int>(info.image_height), static_cast<int>(info.image_width), channels);
  if (!read_rows(&reader, image.pixels.data(), static_cast<size_t>(image.row_bytes()),
                 cmyk_row.empty() ? nullptr : cmyk_row.data())) {
    throw_damaged(name, "JPEG", reader.message);
  }
  return apply_orientation(std::move(image), orientation);
}

}  // namespace aspis::data::detail
