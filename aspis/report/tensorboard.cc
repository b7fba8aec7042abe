#include "aspis/report/tensorboard.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <utility>

#include "aspis/base/error.h"
#include "aspis/base/file.h"
#include "aspis/base/io_calls.h"
#include "aspis/base/utf8.h"
#include "aspis/report/sinks.h"

namespace aspis::report {
namespace {

namespace fs = std::filesystem;

constexpr std::array<uint32_t, 256> crc_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t c = i;
    for (int k = 0; k < 8; ++k) c = (c & 1) != 0 ? c >> 1 ^ 0x82F63B78U : c >> 1;
    table[i] = c;
  }
  return table;
}

constexpr auto kCrcTable = crc_table();

// Little-endian bytes of an integer, whatever the machine's order is.
template <typename T>
void put_fixed(std::string& out, T value) {
  for (size_t i = 0; i < sizeof(T); ++i) out += static_cast<char>(value >> (8 * i) & 255);
}

template <typename T>
T get_fixed(std::string_view bytes) {
  T value = 0;
  for (size_t i = 0; i < sizeof(T); ++i) value |= static_cast<T>(static_cast<unsigned char>(bytes[i])) << (8 * i);
  return value;
}

// Protobuf wire types: 0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes.
void put_varint(std::string& out, uint64_t value) {
  for (; value >= 128; value >>= 7) out += static_cast<char>((value & 127) | 128);
  out += static_cast<char>(value);
}

void put_key(std::string& out, uint32_t field, uint32_t wire) { put_varint(out, field << 3 | wire); }

void put_int(std::string& out, uint32_t field, int64_t value) {
  put_key(out, field, 0);
  put_varint(out, static_cast<uint64_t>(value));
}

void put_double(std::string& out, uint32_t field, double value) {
  uint64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  put_key(out, field, 1);
  put_fixed(out, bits);
}

void put_float(std::string& out, uint32_t field, float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  put_key(out, field, 5);
  put_fixed(out, bits);
}

void put_bytes(std::string& out, uint32_t field, std::string_view bytes) {
  put_key(out, field, 2);
  put_varint(out, bytes.size());
  out += bytes;
}

std::string event_head(double wall_time, int64_t step) {
  std::string out;
  put_double(out, 1, wall_time);
  if (step != 0) put_int(out, 2, step);
  return out;
}

// Event{wall_time, step, summary = {value = [one value]}}.
std::string one_value_event(double wall_time, int64_t step, std::string_view value) {
  std::string summary;
  put_bytes(summary, 1, value);
  std::string out = event_head(wall_time, step);
  put_bytes(out, 5, summary);
  return out;
}

bool get_varint(std::string_view& in, uint64_t& value) {
  value = 0;
  for (unsigned shift = 0; shift < 64 && !in.empty(); shift += 7) {
    const auto byte = static_cast<unsigned char>(in[0]);
    in.remove_prefix(1);
    value |= static_cast<uint64_t>(byte & 127) << shift;
    if (byte < 128) return true;
  }
  return false;
}

// The step of an event; 0 where it has none.
int64_t step_of(std::string_view event) {
  uint64_t key = 0;
  while (get_varint(event, key)) {
    uint64_t n = 0;
    switch (key & 7) {
      case 0:
        if (!get_varint(event, n)) return 0;
        if (key >> 3 == 2) return static_cast<int64_t>(n);
        continue;
      case 1:
        n = 8;
        break;
      case 2:
        if (!get_varint(event, n)) return 0;
        break;
      case 5:
        n = 4;
        break;
      default:
        return 0;
    }
    if (n > event.size()) return 0;
    event.remove_prefix(n);
  }
  return 0;
}

double wall_seconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// Appends bytes; a write that fails halfway is taken back. (AppendFile of base/
// is for lines.)
class ByteFile {
 public:
  explicit ByteFile(fs::path path) : path_(std::move(path)) {
    do {
      fd_ = io_calls().open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    } while (fd_ < 0 && errno == EINTR);
    if (fd_ < 0) throw_write_error(path_, "open", errno);
  }
  ~ByteFile() { io_calls().close(fd_); }
  ByteFile(const ByteFile&) = delete;
  ByteFile& operator=(const ByteFile&) = delete;

  void write(std::string_view bytes) {
    size_t done = 0;
    while (done < bytes.size()) {
      const ssize_t n = io_calls().write(fd_, bytes.data() + done, bytes.size() - done);
      if (n > 0) {
        done += static_cast<size_t>(n);
      } else if (n == 0 || errno != EINTR) {
        const int error = n == 0 ? EIO : errno;
        struct stat info {};
        if (done > 0 && ::fstat(fd_, &info) == 0) (void)!::ftruncate(fd_, info.st_size - static_cast<off_t>(done));
        throw_write_error(path_, "write", error);
      }
    }
  }

 private:
  fs::path path_;
  int fd_ = -1;
};

class TensorBoardSink : public MetricsSink {
 public:
  explicit TensorBoardSink(fs::path folder) : folder_(std::move(folder)) {}

  void begin(const SinkStart& start) override {
    file_.reset();
    std::vector<fs::path> old;
    std::error_code ec;
    for (const auto& entry : fs::directory_iterator(folder_, ec)) {
      if (entry.path().filename().string().starts_with("events.out.tfevents.")) old.push_back(entry.path());
    }
    std::sort(old.begin(), old.end());
    fs::path path;
    if (start.resume && !old.empty()) {
      path = old.back();
      for (const auto& p : old) {
        const std::string text = read_file(p);
        const std::string kept = keep_events(text, start.step);
        if (kept.size() != text.size()) write_file_atomic(p, kept);
      }
    } else {
      // A run that starts anew shows its own curves only.
      for (const auto& p : old) io_calls().unlink(p.c_str());
      const auto seconds = static_cast<int64_t>(wall_seconds());
      path = folder_ / ("events.out.tfevents." + std::to_string(seconds) + ".aspis");
    }
    const bool fresh = !fs::exists(path, ec) || fs::file_size(path, ec) == 0;
    file_ = std::make_unique<ByteFile>(path);
    if (fresh) file_->write(event_record(version_event(wall_seconds())));
  }

  void scalars(int64_t step, double /*epoch*/, const Scalars& values) override {
    std::vector<TagValue> list;
    for (const auto& [name, value] : values) list.push_back({to_valid_utf8(name), static_cast<float>(value)});
    if (!list.empty()) put(scalar_event(wall_seconds(), step, list));
  }

  void image(int64_t step, std::string_view tag, std::string_view png) override {
    put(image_event(wall_seconds(), step, tag, png));
  }

  void text(int64_t step, std::string_view tag, std::string_view text) override {
    put(text_event(wall_seconds(), step, tag, text));
  }

  void end() override { file_.reset(); }

 private:
  void put(const std::string& event) {
    if (file_ && !event.empty()) file_->write(event_record(event));
  }

  fs::path folder_;
  std::unique_ptr<ByteFile> file_;
};

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  uint32_t c = 0xFFFFFFFFU;
  for (const char b : bytes) c = c >> 8 ^ kCrcTable[(c ^ static_cast<unsigned char>(b)) & 255];
  return ~c;
}

uint32_t masked_crc32c(std::string_view bytes) {
  const uint32_t c = crc32c(bytes);
  return (c >> 15 | c << 17) + 0xA282EAD8U;
}

std::string event_record(std::string_view data) {
  std::string out;
  put_fixed(out, static_cast<uint64_t>(data.size()));
  put_fixed(out, masked_crc32c(std::string(out)));
  out += data;
  put_fixed(out, masked_crc32c(data));
  return out;
}

std::string version_event(double wall_time) {
  std::string out = event_head(wall_time, 0);
  put_bytes(out, 3, "brain.Event:2");
  return out;
}

std::string scalar_event(double wall_time, int64_t step, const std::vector<TagValue>& values) {
  std::string summary;
  for (const TagValue& v : values) {
    std::string value;
    put_bytes(value, 1, v.tag);
    put_float(value, 2, v.value);
    put_bytes(summary, 1, value);
  }
  std::string out = event_head(wall_time, step);
  put_bytes(out, 5, summary);
  return out;
}

std::string image_event(double wall_time, int64_t step, std::string_view tag, std::string_view png) {
  // Signature (8), length and name of IHDR (8), width, height, depth, colour type.
  if (png.size() < 26 || !png.starts_with("\x89PNG\r\n\x1a\n")) return {};
  const auto big_endian = [&](size_t at) {
    int64_t v = 0;
    for (size_t i = 0; i < 4; ++i) v = v << 8 | static_cast<unsigned char>(png[at + i]);
    return v;
  };
  // Channels by colour type: grey, -, RGB, palette, grey+alpha, -, RGBA.
  static constexpr std::array<int64_t, 7> kChannels = {1, 3, 3, 3, 2, 4, 4};
  std::string image;
  put_int(image, 1, big_endian(20));
  put_int(image, 2, big_endian(16));
  put_int(image, 3, kChannels[std::min<size_t>(6, static_cast<unsigned char>(png[25]))]);
  put_bytes(image, 4, png);
  std::string value;
  put_bytes(value, 1, to_valid_utf8(tag));
  put_bytes(value, 4, image);
  return one_value_event(wall_time, step, value);
}

std::string text_event(double wall_time, int64_t step, std::string_view tag, std::string_view text) {
  std::string plugin;
  put_bytes(plugin, 1, "text");
  std::string metadata;
  put_bytes(metadata, 1, plugin);
  std::string dim;
  put_int(dim, 1, 1);
  std::string shape;
  put_bytes(shape, 2, dim);
  std::string tensor;
  put_int(tensor, 1, 7);  // DT_STRING
  put_bytes(tensor, 2, shape);
  put_bytes(tensor, 8, to_valid_utf8(text));
  std::string value;
  put_bytes(value, 1, to_valid_utf8(tag));
  put_bytes(value, 8, tensor);
  put_bytes(value, 9, metadata);
  return one_value_event(wall_time, step, value);
}

std::string keep_events(std::string_view file, int64_t last_step) {
  constexpr uint64_t kFrame = 16;  // two lengths of checks around the data
  std::string kept;
  while (file.size() >= kFrame) {
    const auto length = get_fixed<uint64_t>(file);
    if (get_fixed<uint32_t>(file.substr(8)) != masked_crc32c(file.substr(0, 8))) break;
    if (length > file.size() - kFrame) break;
    const std::string_view data = file.substr(12, length);
    if (get_fixed<uint32_t>(file.substr(12 + length)) != masked_crc32c(data)) break;
    if (step_of(data) <= last_step) kept += file.substr(0, length + kFrame);
    file.remove_prefix(length + kFrame);
  }
  return kept;
}

std::unique_ptr<MetricsSink> tensorboard_sink(fs::path folder) {
  return std::make_unique<TensorBoardSink>(std::move(folder));
}

}  // namespace aspis::report
