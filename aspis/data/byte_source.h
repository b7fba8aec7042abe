#pragma once

// Internal to aspis/data: what the readers of binary files stand on.

#include <zlib.h>

#include <cstdint>
#include <string_view>

namespace aspis::data {

/// Sequential bytes of a raw or gzip file, told apart by content; never reads
/// past either end and inflates no more than is asked for.
class ByteSource {
 public:
  /// Deflate cannot do better than about 1032 to 1.
  static constexpr int64_t kMostInflation = 1100;

  /// Both views must outlive the object; `name` is for error sentences.
  ByteSource(std::string_view bytes, std::string_view name);
  ~ByteSource();
  ByteSource(const ByteSource&) = delete;
  ByteSource& operator=(const ByteSource&) = delete;

  bool gzip() const { return gzip_; }

  /// Number of bytes that were there, at most `count`. Throws `Error(kData)` for
  /// a gzip stream that is damaged or cut off.
  size_t read(uint8_t* to, size_t count);

 private:
  size_t inflate_some(uint8_t* to, size_t count);

  std::string_view bytes_;
  std::string_view name_;
  size_t position_ = 0;
  bool gzip_ = false;
  bool ended_ = false;
  z_stream stream_{};
};

}  // namespace aspis::data
