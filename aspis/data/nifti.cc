#include "aspis/data/nifti.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "aspis/base/file.h"
#include "aspis/data/byte_source.h"

namespace aspis::data {
namespace {

[[noreturn]] void damaged(std::string_view name, std::string required, std::string got) {
  throw Error(ErrorKind::kData,
              {.where = std::string(name), .required = std::move(required), .got = std::move(got)});
}

template <typename T>
T swapped(T value) {
  auto bytes = std::bit_cast<std::array<uint8_t, sizeof(T)>>(value);
  std::reverse(bytes.begin(), bytes.end());
  return std::bit_cast<T>(bytes);
}

/// A header in memory; every access is inside by construction (offsets are constants).
struct Header {
  std::array<uint8_t, 540> bytes{};
  bool swap = false;

  template <typename T>
  T at(size_t offset) const {
    T value;
    std::memcpy(&value, bytes.data() + offset, sizeof value);
    return swap ? swapped(value) : value;
  }
};

/// What both versions of the header say.
struct Facts {
  std::array<int64_t, 8> dim{};
  std::array<double, 4> spacing{};
  int type = 0, bits = 0;
  double offset = 0, slope = 0, intercept = 0;
  int64_t header_bytes = 0;
};

constexpr size_t kVersion1 = 348, kVersion2 = 540;

Facts read_header(ByteSource& source, std::string_view name, bool* swap) {
  Header h;
  if (source.read(h.bytes.data(), kVersion1) != kVersion1) {
    damaged(name, "a NIfTI file starts with a header of 348 bytes", "fewer");
  }
  auto size = h.at<int32_t>(0);
  if (size != kVersion1 && size != kVersion2) {
    h.swap = true;
    size = h.at<int32_t>(0);
  }
  *swap = h.swap;
  Facts f;
  if (size == kVersion1) {
    if (std::memcmp(h.bytes.data() + 344, "ni1", 4) == 0) {
      damaged(name, "header and data must be in one file (.nii)", "the header of a pair (.hdr and .img)");
    }
    if (std::memcmp(h.bytes.data() + 344, "n+1", 4) != 0) damaged(name, "the magic word must be n+1", "another");
    for (size_t i = 0; i < 8; ++i) f.dim[i] = h.at<int16_t>(40 + 2 * i);
    for (size_t i = 0; i < 4; ++i) f.spacing[i] = h.at<float>(76 + 4 * i);
    f.type = h.at<int16_t>(70);
    f.bits = h.at<int16_t>(72);
    f.offset = h.at<float>(108);
    f.slope = h.at<float>(112);
    f.intercept = h.at<float>(116);
    f.header_bytes = kVersion1;
    return f;
  }
  if (size != kVersion2) damaged(name, "a NIfTI file starts with its header size, 348 or 540", "another number");
  const size_t rest = kVersion2 - kVersion1;
  if (source.read(h.bytes.data() + kVersion1, rest) != rest) {
    damaged(name, "a NIfTI-2 file starts with a header of 540 bytes", "fewer");
  }
  if (std::memcmp(h.bytes.data() + 4, "n+2\0\r\n\x1a\n", 8) != 0)
    damaged(name, "the magic word must be n+2", "another");
  for (size_t i = 0; i < 8; ++i) f.dim[i] = h.at<int64_t>(16 + 8 * i);
  for (size_t i = 0; i < 4; ++i) f.spacing[i] = h.at<double>(104 + 8 * i);
  f.type = h.at<int16_t>(12);
  f.bits = h.at<int16_t>(14);
  const auto offset = h.at<int64_t>(168);
  f.offset = offset >= 0 && offset < (int64_t{1} << 52) ? static_cast<double>(offset) : NAN;
  f.slope = h.at<double>(176);
  f.intercept = h.at<double>(184);
  f.header_bytes = kVersion2;
  return f;
}

/// Bytes of a type, 0 for one that is not read. Its name for the error sentence.
int type_bytes(int type, const char** word) {
  *word = "unknown";
  switch (type) {
    case 2:
    case 256:
      return 1;
    case 4:
    case 512:
      return 2;
    case 8:
    case 16:
    case 768:
      return 4;
    case 64:
    case 1024:
    case 1280:
      return 8;
    case 1:
      *word = "binary";
      break;
    case 32:
    case 1792:
    case 2048:
      *word = "complex";
      break;
    case 128:
    case 2304:
      *word = "colour";
      break;
    case 1536:
      *word = "float128";
      break;
    default:
      break;
  }
  return 0;
}

template <typename T>
void convert(const std::vector<uint8_t>& raw, bool swap, double slope, double intercept, std::vector<float>& out) {
  const bool plain = slope == 1 && intercept == 0;
  for (size_t i = 0; i < out.size(); ++i) {
    T value;
    std::memcpy(&value, raw.data() + i * sizeof(T), sizeof(T));
    if (swap) value = swapped(value);
    out[i] =
        plain ? static_cast<float>(value) : static_cast<float>(slope * static_cast<double>(value) + intercept);
  }
}

void convert(int type, const std::vector<uint8_t>& raw, bool swap, double slope, double intercept,
             std::vector<float>& out) {
  switch (type) {
    case 2:
      return convert<uint8_t>(raw, swap, slope, intercept, out);
    case 4:
      return convert<int16_t>(raw, swap, slope, intercept, out);
    case 8:
      return convert<int32_t>(raw, swap, slope, intercept, out);
    case 16:
      return convert<float>(raw, swap, slope, intercept, out);
    case 64:
      return convert<double>(raw, swap, slope, intercept, out);
    case 256:
      return convert<int8_t>(raw, swap, slope, intercept, out);
    case 512:
      return convert<uint16_t>(raw, swap, slope, intercept, out);
    case 768:
      return convert<uint32_t>(raw, swap, slope, intercept, out);
    case 1024:
      return convert<int64_t>(raw, swap, slope, intercept, out);
    default:
      return convert<uint64_t>(raw, swap, slope, intercept, out);
  }
}

}  // namespace

Volume parse_nifti(std::string_view bytes, std::string_view name, const NiftiLimits& limits) {
  const auto file_bytes = static_cast<int64_t>(bytes.size());
  if (file_bytes > limits.max_file_bytes) {
    damaged(name, fmt::format("a file may have at most {} bytes", limits.max_file_bytes),
            fmt::format("{}", file_bytes));
  }
  ByteSource source(bytes, name);
  bool swap = false;
  const Facts f = read_header(source, name, &swap);
  const int64_t axes = f.dim[0];
  if (axes < 1 || axes > 7) damaged(name, "the number of axes must lie in 1 to 7", fmt::format("{}", axes));
  int64_t total = 1;
  Volume v;
  for (int64_t i = 1; i <= axes; ++i) {
    const int64_t n = f.dim[i];
    if (n < 1) damaged(name, "every size must be at least 1", fmt::format("{} of axis {}", n, i));
    if (__builtin_mul_overflow(total, n, &total) || total > limits.max_values) {
      damaged(name, fmt::format("a volume may hold at most {} values", limits.max_values), "more");
    }
    v.shape.insert(v.shape.begin(), n);
  }
  while (v.shape.size() > 3 && v.shape.front() == 1) v.shape.erase(v.shape.begin());
  while (v.shape.size() < 3) v.shape.insert(v.shape.begin(), 1);
  const char* word = "";
  const int size = type_bytes(f.type, &word);
  if (size == 0) {
    damaged(name, "values must be integers of 8 to 64 bits or floating point of 32 or 64",
            fmt::format("{} values, type {}", word, f.type));
  }
  if (f.bits != 8 * size) {
    damaged(name, fmt::format("type {} has {} bits", f.type, 8 * size), fmt::format("{} in the header", f.bits));
  }
  const int64_t data_bytes = total * size;  // at most 2^32
  const auto lowest = static_cast<double>(f.header_bytes + 4);
  const int64_t can_hold = source.gzip() ? file_bytes * ByteSource::kMostInflation : file_bytes;
  if (!(std::isfinite(f.offset) && f.offset == std::floor(f.offset) && f.offset >= lowest &&
        f.offset <= static_cast<double>(can_hold))) {
    damaged(name, fmt::format("the data must begin at a whole byte from {} on, inside the file", lowest),
            fmt::format("{}", f.offset));
  }
  const auto offset = static_cast<int64_t>(f.offset);
  if (data_bytes > can_hold - offset) {
    damaged(name, fmt::format("the header promises {} bytes of data from {} on", data_bytes, offset),
            fmt::format("a file of {} bytes; it was probably cut off", file_bytes));
  }
  double slope = f.slope, intercept = f.intercept;
  if (!std::isfinite(slope) || !std::isfinite(intercept)) {
    damaged(name, "slope and intercept must be finite", fmt::format("{} and {}", slope, intercept));
  }
  if (slope == 0) slope = 1, intercept = 0;  // "not scaled", by the standard

  // The extensions between header and data are passed over.
  std::vector<uint8_t> skipped(4096);
  for (int64_t left = offset - f.header_bytes; left > 0;) {
    const auto n = static_cast<size_t>(std::min<int64_t>(left, static_cast<int64_t>(skipped.size())));
    if (source.read(skipped.data(), n) != n) damaged(name, "the data must begin inside the file", "an early end");
    left -= static_cast<int64_t>(n);
  }
  // A gzip file can promise what it does not hold: memory grows with what comes.
  std::vector<uint8_t> raw;
  constexpr int64_t kStep = int64_t{1} << 24;
  while (static_cast<int64_t>(raw.size()) < data_bytes) {
    const auto n = static_cast<size_t>(std::min(kStep, data_bytes - static_cast<int64_t>(raw.size())));
    const size_t before = raw.size();
    raw.resize(before + n);
    const size_t got = source.read(raw.data() + before, n);
    if (got != n) {
      damaged(name, fmt::format("{} bytes of data are needed", data_bytes), fmt::format("{}", before + got));
    }
  }
  v.values.resize(static_cast<size_t>(total));
  convert(f.type, raw, swap, slope, intercept, v.values);
  for (size_t i = 0; i < 3; ++i) {
    const double d = std::fabs(f.spacing[3 - i]);
    v.spacing[i] = std::isfinite(d) && d > 0 ? d : 1;
  }
  return v;
}

Volume read_nifti(const std::filesystem::path& path, const NiftiLimits& limits) {
  return parse_nifti(read_file(path, ErrorKind::kData, limits.max_file_bytes), shown_path(path), limits);
}

}  // namespace aspis::data
