// Reads one number out of an EXIF block (TIFF 6.0 layout, EXIF 2.3 section 4.5.4).
// Every access goes through Block::u16/u32, which refuse offsets beyond the end.

#include <cstring>
#include <optional>

#include "aspis/data/codec.h"

namespace aspis::data::detail {
namespace {

struct Block {
  std::span<const uint8_t> bytes;
  bool big_endian = false;

  std::optional<uint32_t> u16(uint64_t at) const {
    if (at + 2 > bytes.size()) return std::nullopt;
    const uint32_t a = bytes[at], b = bytes[at + 1];
    return big_endian ? a << 8 | b : b << 8 | a;
  }
  std::optional<uint32_t> u32(uint64_t at) const {
    const auto a = u16(at), b = u16(at + 2);
    if (!a || !b) return std::nullopt;
    return big_endian ? *a << 16 | *b : *b << 16 | *a;
  }
};

constexpr uint32_t kOrientationTag = 0x0112;
constexpr uint32_t kTypeShort = 3;

}  // namespace

int exif_orientation(std::span<const uint8_t> app1) {
  constexpr char kHeader[6] = {'E', 'x', 'i', 'f', 0, 0};
  if (app1.size() < 14 || std::memcmp(app1.data(), kHeader, 6) != 0) return 1;
  Block block{app1.subspan(6)};
  if (block.bytes[0] == 'M' && block.bytes[1] == 'M') {
    block.big_endian = true;
  } else if (block.bytes[0] != 'I' || block.bytes[1] != 'I') {
    return 1;
  }
  if (block.u16(2) != 42u) return 1;
  const auto directory = block.u32(4);
  if (!directory) return 1;
  const auto entries = block.u16(*directory);
  if (!entries) return 1;
  for (uint32_t i = 0; i < *entries; ++i) {
    const uint64_t at = uint64_t{*directory} + 2 + uint64_t{12} * i;
    const auto tag = block.u16(at);
    if (!tag) return 1;
    if (*tag != kOrientationTag) continue;
    const auto type = block.u16(at + 2), value = block.u16(at + 8);
    const auto count = block.u32(at + 4);
    const bool valid = type == kTypeShort && count == 1u && value && *value >= 1 && *value <= 8;
    return valid ? static_cast<int>(*value) : 1;
  }
  return 1;
}

}  // namespace aspis::data::detail
