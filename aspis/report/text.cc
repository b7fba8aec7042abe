#include "aspis/report/text.h"

#include <fmt/format.h>

#include <array>
#include <cmath>

#include "aspis/base/error.h"
#include "aspis/base/utf8.h"

namespace aspis::report {
namespace {

constexpr std::string_view kBase64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

std::string not_finite(double value) {
  if (std::isnan(value)) return "nan";
  return value < 0 ? "-inf" : "inf";
}

[[noreturn]] void fail_base64(std::string_view where) {
  throw Error(ErrorKind::kData, {.where = std::string(where),
                                 .required = "the value must be base64 text",
                                 .got = "other characters or a wrong length"});
}

}  // namespace

std::string format_count(int64_t value) {
  std::string digits = std::to_string(value);
  const size_t first = value < 0 ? 1 : 0;
  for (size_t i = digits.size(); i > first + 3;) {
    i -= 3;
    digits.insert(i, ",");
  }
  return digits;
}

std::string format_si(double value) {
  if (!std::isfinite(value)) return "-";
  static constexpr std::array<const char*, 6> kUnits = {"", " k", " M", " G", " T", " P"};
  size_t unit = 0;
  double scaled = value;
  // 999.5 and more would print as "1000".
  while (std::abs(scaled) >= 999.5 && unit + 1 < kUnits.size()) {
    scaled /= 1000;
    ++unit;
  }
  if (unit == 0 && scaled == std::floor(scaled)) return fmt::format("{:.0f}", scaled);
  const double size = std::abs(scaled);
  const int decimals = size < 9.995 ? 2 : size < 99.95 ? 1 : 0;
  return fmt::format("{:.{}f}{}", scaled, decimals, kUnits[unit]);
}

std::string format_percent(double fraction, int digits) {
  if (!std::isfinite(fraction)) return "-";
  return fmt::format("{:.{}f} %", fraction * 100, digits);
}

std::string format_number(double value, int digits) {
  if (!std::isfinite(value)) return not_finite(value);
  const double size = std::abs(value);
  if (size != 0 && (size < 1e-3 || size >= 1e6)) return fmt::format("{:.{}e}", value, std::max(1, digits - 3));
  if (size >= std::pow(10.0, digits - 1)) return fmt::format("{:.0f}", value);
  return fmt::format("{:.{}g}", value, digits);
}

std::string format_exact(double value) {
  if (!std::isfinite(value)) return not_finite(value);
  return fmt::format("{}", value);
}

std::string escape_html(std::string_view text) {
  const std::string valid = to_valid_utf8(text);
  std::string out;
  out.reserve(valid.size() + valid.size() / 8);
  for (const char c : valid) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '\n':
      case '\t':
        out += c;
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
          out += "\xEF\xBF\xBD";
        } else {
          out += c;
        }
    }
  }
  return out;
}

std::string base64_encode(std::string_view bytes) {
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const size_t n = std::min<size_t>(3, bytes.size() - i);
    uint32_t word = 0;
    for (size_t j = 0; j < 3; ++j) word = word << 8 | (j < n ? static_cast<unsigned char>(bytes[i + j]) : 0U);
    for (size_t j = 0; j < 4; ++j) out += j <= n ? kBase64[word >> (18 - 6 * j) & 63] : '=';
  }
  return out;
}

std::string base64_decode(std::string_view text, std::string_view where) {
  if (text.size() % 4 != 0) fail_base64(where);
  std::string out;
  out.reserve(text.size() / 4 * 3);
  for (size_t i = 0; i < text.size(); i += 4) {
    uint32_t word = 0;
    size_t padding = 0;
    for (size_t j = 0; j < 4; ++j) {
      const char c = text[i + j];
      const size_t value = kBase64.find(c);
      if (c == '=' && j >= 2 && i + 4 == text.size()) {
        ++padding;
      } else if (value == std::string_view::npos || padding > 0) {
        fail_base64(where);
      }
      word = word << 6 | (c == '=' ? 0U : static_cast<uint32_t>(value));
    }
    for (size_t j = 0; j < 3 - padding; ++j) out += static_cast<char>(word >> (16 - 8 * j) & 255);
  }
  return out;
}

std::string csv_field(std::string_view text) {
  if (text.find_first_of(",\"\r\n") == std::string_view::npos) return std::string(text);
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"') out += '"';
    out += c;
  }
  return out + '"';
}

std::string shorten(std::string_view text, size_t width, bool utf8) {
  std::string valid = to_valid_utf8(text);
  if (utf8_length(valid) <= width) return valid;
  if (width == 0) return {};
  size_t end = 0;
  for (size_t points = 0; end < valid.size(); ++end) {
    // Count the bytes that start a code point.
    if ((static_cast<unsigned char>(valid[end]) & 0xC0) != 0x80 && points++ == width - 1) break;
  }
  return valid.substr(0, end) + (utf8 ? "\xE2\x80\xA6" : "~");
}

}  // namespace aspis::report
