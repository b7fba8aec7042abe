#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "aspis/base/error.h"

namespace aspis {

/// Throws Error(kModel) for the file it was made for.
class ModelFault {
 public:
  explicit ModelFault(std::string_view where, std::string_view hint = {}) : where_(where), hint_(hint) {}
  [[noreturn]] void operator()(std::string required, std::string got, const std::string& hint = {}) const {
    throw Error(ErrorKind::kModel, {.where = where_,
                                    .required = std::move(required),
                                    .got = std::move(got),
                                    .hint = hint.empty() ? hint_ : hint});
  }
  const std::string& where() const { return where_; }

 private:
  std::string where_, hint_;
};

/// The one way in which the binary readers move through a buffer: every step is
/// checked against what remains. Views of the buffer; `fault` must outlive it.
class Cursor {
 public:
  Cursor(std::string_view bytes, const ModelFault& fault, size_t at = 0) : bytes_(bytes), fault_(&fault), at_(at) {
    if (at > bytes.size()) fault("a position must lie in the file", std::to_string(at));
  }

  size_t at() const { return at_; }
  size_t left() const { return bytes_.size() - at_; }

  std::string_view take(uint64_t n) {
    if (n > left()) {
      (*fault_)("the file must go on for " + std::to_string(n) + " bytes at byte " + std::to_string(at_),
                std::to_string(left()) + " bytes before its end");
    }
    const std::string_view part = bytes_.substr(at_, static_cast<size_t>(n));
    at_ += static_cast<size_t>(n);
    return part;
  }
  uint64_t little(int size) {
    const std::string_view part = take(static_cast<uint64_t>(size));
    uint64_t v = 0;
    for (int i = size - 1; i >= 0; i--) v = v << 8 | static_cast<unsigned char>(part[static_cast<size_t>(i)]);
    return v;
  }
  uint8_t u8() { return static_cast<uint8_t>(little(1)); }
  uint16_t u16() { return static_cast<uint16_t>(little(2)); }
  uint32_t u32() { return static_cast<uint32_t>(little(4)); }
  uint64_t u64() { return little(8); }
  /// Up to and without the next newline, which is taken too.
  std::string_view line() {
    const size_t end = bytes_.find('\n', at_);
    if (end == std::string_view::npos) (*fault_)("a line must end before the file does", "the end of the file");
    const std::string_view part = bytes_.substr(at_, end - at_);
    at_ = end + 1;
    return part;
  }

 private:
  std::string_view bytes_;
  const ModelFault* fault_;
  size_t at_;
};

}  // namespace aspis
