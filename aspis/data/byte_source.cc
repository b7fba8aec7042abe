#include "aspis/data/byte_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "aspis/base/error.h"

namespace aspis::data {
namespace {

[[noreturn]] void damaged(std::string_view name, std::string required, std::string got) {
  throw Error(ErrorKind::kData,
              {.where = std::string(name), .required = std::move(required), .got = std::move(got)});
}

}  // namespace

ByteSource::ByteSource(std::string_view bytes, std::string_view name) : bytes_(bytes), name_(name) {
  gzip_ = bytes.size() >= 2 && bytes[0] == '\x1f' && bytes[1] == '\x8b';
  if (!gzip_) return;
  constexpr int kWindowBits = 15, kGzip = 16;
  if (inflateInit2(&stream_, kWindowBits + kGzip) != Z_OK) {
    throw Error(ErrorKind::kDevice, {.where = std::string(name), .required = "memory for zlib"});
  }
}

ByteSource::~ByteSource() {
  if (gzip_) inflateEnd(&stream_);
}

size_t ByteSource::read(uint8_t* to, size_t count) {
  if (gzip_) return inflate_some(to, count);
  const size_t n = std::min(count, bytes_.size() - position_);
  if (n > 0) std::memcpy(to, bytes_.data() + position_, n);
  position_ += n;
  return n;
}

size_t ByteSource::inflate_some(uint8_t* to, size_t count) {
  constexpr size_t kChunk = size_t{1} << 30;  // zlib counts in 32 bits
  size_t done = 0;
  while (done < count && !ended_) {
    const size_t in = std::min(bytes_.size() - position_, kChunk), out = std::min(count - done, kChunk);
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes_.data() + position_));
    stream_.avail_in = static_cast<uInt>(in);
    stream_.next_out = to + done;
    stream_.avail_out = static_cast<uInt>(out);
    const int status = inflate(&stream_, Z_NO_FLUSH);
    position_ += in - stream_.avail_in;
    done += out - stream_.avail_out;
    if (status == Z_STREAM_END) {
      // A gzip file may be several members in a row.
      ended_ = position_ == bytes_.size() || inflateReset(&stream_) != Z_OK;
    } else if (status == Z_BUF_ERROR || (status == Z_OK && position_ == bytes_.size() && done < count)) {
      damaged(name_, "the gzip stream must be whole", fmt::format("an end after {} bytes", bytes_.size()));
    } else if (status != Z_OK) {
      damaged(name_, "the gzip stream must be undamaged",
              fmt::format("zlib reports \"{}\"", stream_.msg ? stream_.msg : "bad data"));
    }
  }
  return done;
}

}  // namespace aspis::data
