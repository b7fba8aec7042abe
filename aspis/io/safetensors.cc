#include "aspis/io/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_set>

#include "aspis/base/error.h"
#include "aspis/base/utf8.h"
#include "aspis/io/checked.h"
#include "aspis/io/names.h"

namespace aspis {
namespace {

struct DtypeRow {
  TensorDtype dtype;
  std::string_view name;
  int64_t size;
};
constexpr std::array<DtypeRow, 13> kDtypes = {{{TensorDtype::kBool, "BOOL", 1},
                                               {TensorDtype::kU8, "U8", 1},
                                               {TensorDtype::kI8, "I8", 1},
                                               {TensorDtype::kI16, "I16", 2},
                                               {TensorDtype::kU16, "U16", 2},
                                               {TensorDtype::kF16, "F16", 2},
                                               {TensorDtype::kBF16, "BF16", 2},
                                               {TensorDtype::kI32, "I32", 4},
                                               {TensorDtype::kU32, "U32", 4},
                                               {TensorDtype::kF32, "F32", 4},
                                               {TensorDtype::kF64, "F64", 8},
                                               {TensorDtype::kI64, "I64", 8},
                                               {TensorDtype::kU64, "U64", 8}}};

constexpr int64_t kLengthBytes = 8;
constexpr int64_t kMaxDim = 2147483647;
constexpr std::string_view kMetadataKey = "__metadata__";

std::optional<TensorDtype> dtype_of(std::string_view name) {
  for (const auto& row : kDtypes) {
    if (row.name == name) return row.dtype;
  }
  return std::nullopt;
}

bool plain_name(std::string_view name) {
  return is_valid_utf8(name) && std::none_of(name.begin(), name.end(), [](char c) {
           return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
         });
}

// Bytes of a tensor of this shape, or nothing if that overflows. Dimensions of 0
// count as 1 in the check, so that strides cannot overflow either.
std::optional<int64_t> bytes_of(const std::vector<int64_t>& shape, TensorDtype dtype) {
  int64_t product = size_of(dtype);
  bool empty = false;
  for (const int64_t dim : shape) {
    empty = empty || dim == 0;
    if (!checked_mul(product, std::max<int64_t>(dim, 1), &product)) return std::nullopt;
  }
  return empty ? 0 : product;
}

struct Entry {
  std::string name;
  std::optional<TensorDtype> dtype;
  std::vector<int64_t> shape;
  std::vector<int64_t> offsets;
  bool has_shape = false, has_offsets = false;
};

// Reads the header event by event: no tree is built, so depth and memory stay
// small whatever the header holds. The events allowed are
//   { name: {dtype: string, shape: [int...], data_offsets: [int, int]} ..., __metadata__: {key: string ...} }
class HeaderHandler {
 public:
  explicit HeaderHandler(const SafetensorsLimits& limits) : limits_(limits) {}

  std::vector<Entry> entries;
  std::map<std::string, std::string> metadata;
  std::string problem;  // why the handler stopped, as "required; got"
  std::string got;

  bool null() { return unexpected("null"); }
  bool boolean(bool) { return unexpected("a truth value"); }
  bool number_integer(int64_t v) { return unexpected_number(fmt::format("{}", v)); }
  bool number_float(double, const std::string& text) { return unexpected_number(text.substr(0, 40)); }
  bool binary(nlohmann::json::binary_t&) { return unexpected("binary data"); }

  bool number_unsigned(uint64_t v) {
    if (state_ == State::kShape) {
      if (static_cast<int>(entry().shape.size()) >= limits_.rank) {
        return stop(
            fmt::format("tensor {} must have at most {} dimensions", shown_name(entry().name), limits_.rank),
            "more");
      }
      if (v > static_cast<uint64_t>(kMaxDim)) {
        return stop(
            fmt::format("each dimension of tensor {} must be at most {}", shown_name(entry().name), kMaxDim),
            fmt::format("{}", v));
      }
      entry().shape.push_back(static_cast<int64_t>(v));
      return true;
    }
    if (state_ == State::kOffsets) {
      if (entry().offsets.size() >= 2) {
        return stop(fmt::format("data_offsets of tensor {} must be two numbers", shown_name(entry().name)),
                    "more");
      }
      if (v > static_cast<uint64_t>(INT64_MAX)) {
        return stop(fmt::format("data_offsets of tensor {} must lie in the file", shown_name(entry().name)),
                    fmt::format("{}", v));
      }
      entry().offsets.push_back(static_cast<int64_t>(v));
      return true;
    }
    return unexpected("a number");
  }

  bool string(std::string& v) {
    if (state_ == State::kMetadata) {
      metadata[key_] = std::move(v);
      return true;
    }
    if (state_ == State::kTensor && key_ == "dtype") {
      entry().dtype = dtype_of(v);
      if (entry().dtype) return true;
      return stop(fmt::format("tensor {} must have a dtype that Aspis reads "
                              "(F64 F32 F16 BF16 I64 I32 I16 I8 U64 U32 U16 U8 BOOL)",
                              shown_name(entry().name)),
                  shown_name(v));
    }
    return unexpected("a string");
  }

  bool start_object(size_t) {
    if (state_ == State::kStart) {
      state_ = State::kTop;
      return true;
    }
    if (state_ != State::kTop) return unexpected("an object");
    seen_.clear();
    if (key_ == kMetadataKey) {
      state_ = State::kMetadata;
    } else {
      entries.emplace_back();
      entry().name = key_;
      state_ = State::kTensor;
    }
    return true;
  }

  bool end_object() {
    if (state_ == State::kTensor) {
      const Entry& e = entry();
      if (!e.dtype || !e.has_shape || !e.has_offsets || e.offsets.size() != 2) {
        return stop(fmt::format("tensor {} must have dtype, shape and two data_offsets", shown_name(e.name)),
                    "less");
      }
    }
    state_ = state_ == State::kTop ? State::kEnd : State::kTop;
    return true;
  }

  bool start_array(size_t) {
    if (state_ == State::kTensor && key_ == "shape") {
      entry().has_shape = true;
      state_ = State::kShape;
      return true;
    }
    if (state_ == State::kTensor && key_ == "data_offsets") {
      entry().has_offsets = true;
      state_ = State::kOffsets;
      return true;
    }
    return unexpected("a list");
  }

  bool end_array() {
    state_ = State::kTensor;
    return true;
  }

  bool key(std::string& k) {
    key_ = std::move(k);
    if (!(state_ == State::kTop ? names_ : seen_).insert(key_).second) {
      return stop("a key of the header must not occur twice", shown_name(key_));
    }
    if (state_ == State::kTop && !plain_name(key_)) {
      return stop("a tensor name must not hold control characters", shown_name(key_));
    }
    if (state_ == State::kTensor && key_ != "dtype" && key_ != "shape" && key_ != "data_offsets") {
      return stop(
          fmt::format("tensor {} must have the keys dtype, shape and data_offsets only", shown_name(entry().name)),
          shown_name(key_));
    }
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) {
    return stop("the header must be correct JSON", fmt::format("an error at byte {} of it", position));
  }

 private:
  enum class State { kStart, kTop, kMetadata, kTensor, kShape, kOffsets, kEnd };

  Entry& entry() { return entries.back(); }

  bool stop(std::string required, std::string what) {
    problem = std::move(required);
    got = std::move(what);
    return false;
  }
  bool unexpected(std::string_view what) {
    std::string place = "at the top";
    if (state_ != State::kStart) place = "after key " + shown_name(key_);
    return stop("the header must be an object of tensors", fmt::format("{} {}", what, place));
  }
  bool unexpected_number(const std::string& text) {
    if (state_ == State::kShape || state_ == State::kOffsets) {
      return stop(fmt::format("{} of tensor {} must hold non-negative integers",
                              state_ == State::kShape ? "shape" : "data_offsets", shown_name(entry().name)),
                  text);
    }
    return unexpected("a number");
  }

  const SafetensorsLimits& limits_;
  State state_ = State::kStart;
  std::string key_;
  std::unordered_set<std::string> names_, seen_;
};

class Fail {
 public:
  explicit Fail(std::string_view where) : where_(where) {}
  [[noreturn]] void operator()(std::string required, std::string got) const {
    throw Error(ErrorKind::kModel, {.where = where_,
                                    .required = std::move(required),
                                    .got = std::move(got),
                                    .hint = "get the file again; it is damaged or not a safetensors file"});
  }

 private:
  std::string where_;
};

// The header's length, after which all arithmetic is inside the file.
int64_t header_length(std::string_view bytes, const SafetensorsLimits& limits, const Fail& fail) {
  if (bytes.size() < kLengthBytes)
    fail("a safetensors file must have 8 bytes at least", fmt::format("{}", bytes.size()));
  uint64_t length = 0;
  for (int i = kLengthBytes - 1; i >= 0; i--) length = length << 8 | static_cast<unsigned char>(bytes[i]);
  if (length > static_cast<uint64_t>(limits.header_bytes)) {
    fail(fmt::format("the header must have at most {} bytes", limits.header_bytes), fmt::format("{}", length));
  }
  if (length > bytes.size() - kLengthBytes) {
    fail(fmt::format("the file must hold its header of {} bytes", length),
         fmt::format("{} bytes after the length", bytes.size() - kLengthBytes));
  }
  return static_cast<int64_t>(length);
}

// Sizes against shapes, and data that covers the rest of the file exactly.
void check_layout(std::vector<Entry>& entries, int64_t data_bytes, const Fail& fail) {
  for (const Entry& e : entries) {
    const int64_t begin = e.offsets[0], end = e.offsets[1];
    if (begin > end || end > data_bytes) {
      fail(fmt::format("data_offsets of tensor {} must lie in the {} bytes of data", shown_name(e.name),
                       data_bytes),
           fmt::format("[{}, {}]", begin, end));
    }
    const auto size = bytes_of(e.shape, *e.dtype);
    if (!size || *size != end - begin) {
      fail(fmt::format("tensor {} must have the size of its shape {{{}}} and dtype {}", shown_name(e.name),
                       fmt::join(e.shape, ", "), to_string(*e.dtype)),
           fmt::format("{} bytes", end - begin));
    }
  }
  std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::pair(a.offsets[0], a.offsets[1]) < std::pair(b.offsets[0], b.offsets[1]);
  });
  int64_t covered = 0;
  for (const Entry& e : entries) {
    if (e.offsets[0] != covered) {
      fail(fmt::format("tensor {} must begin where the one before it ends, at byte {} of the data",
                       shown_name(e.name), covered),
           fmt::format("{}", e.offsets[0]));
    }
    covered = e.offsets[1];
  }
  if (covered != data_bytes) {
    fail(fmt::format("the tensors must cover the {} bytes of data", data_bytes), fmt::format("{}", covered));
  }
}

void append_json_string(std::string& out, std::string_view text) {
  out += '"';
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\b':
        out += "\\b";
        break;
      case '\f':
        out += "\\f";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

[[noreturn]] void fail_write(std::string required, std::string got) {
  throw Error(ErrorKind::kUsage,
              {.where = "write_safetensors", .required = std::move(required), .got = std::move(got), .hint = {}});
}

void check_writable(const std::vector<TensorView>& tensors, const std::map<std::string, std::string>& metadata) {
  std::unordered_set<std::string_view> names;
  for (const TensorView& t : tensors) {
    if (!plain_name(t.name) || t.name == kMetadataKey) {
      fail_write("a tensor name must be UTF-8 without control characters", shown_name(t.name));
    }
    if (!names.insert(t.name).second) fail_write("each tensor needs its own name", shown_name(t.name) + " twice");
    if (static_cast<int>(t.shape.size()) > SafetensorsLimits{}.rank) {
      fail_write(
          fmt::format("tensor {} must have at most {} dimensions", shown_name(t.name), SafetensorsLimits{}.rank),
          fmt::format("{}", t.shape.size()));
    }
    for (const int64_t dim : t.shape) {
      if (dim < 0 || dim > kMaxDim) {
        fail_write(fmt::format("each dimension of tensor {} must be in 0..{}", shown_name(t.name), kMaxDim),
                   fmt::format("{}", dim));
      }
    }
    const auto size = bytes_of(t.shape, t.dtype);
    if (!size || *size != static_cast<int64_t>(t.bytes.size())) {
      fail_write(fmt::format("tensor {} must have the size of its shape {{{}}} and dtype {}", shown_name(t.name),
                             fmt::join(t.shape, ", "), to_string(t.dtype)),
                 fmt::format("{} bytes", t.bytes.size()));
    }
  }
  for (const auto& [key, value] : metadata) {
    if (!is_valid_utf8(key) || !is_valid_utf8(value)) fail_write("metadata must be UTF-8", shown_name(key));
  }
}

}  // namespace

std::string_view to_string(TensorDtype dtype) { return kDtypes[static_cast<size_t>(dtype)].name; }
int64_t size_of(TensorDtype dtype) { return kDtypes[static_cast<size_t>(dtype)].size; }

const TensorView* Safetensors::find(std::string_view name) const {
  for (const TensorView& t : tensors) {
    if (t.name == name) return &t;
  }
  return nullptr;
}

Safetensors parse_safetensors(std::string_view bytes, std::string_view where, const SafetensorsLimits& limits) {
  const Fail fail(where);
  const int64_t header_bytes = header_length(bytes, limits, fail);
  const std::string_view header = bytes.substr(kLengthBytes, static_cast<size_t>(header_bytes));
  const std::string_view data = bytes.substr(static_cast<size_t>(kLengthBytes + header_bytes));
  if (header.empty() || header.front() != '{') fail("the header must begin with '{'", "something else");
  // The JSON parser takes a zero byte for the end and would ignore what follows.
  if (header.find('\0') != std::string_view::npos) fail("the header must be correct JSON", "a zero byte in it");

  HeaderHandler handler(limits);
  if (!nlohmann::json::sax_parse(header.begin(), header.end(), &handler)) fail(handler.problem, handler.got);
  check_layout(handler.entries, static_cast<int64_t>(data.size()), fail);

  Safetensors result;
  result.metadata = std::move(handler.metadata);
  result.tensors.reserve(handler.entries.size());
  for (Entry& e : handler.entries) {
    const auto begin = static_cast<size_t>(e.offsets[0]), end = static_cast<size_t>(e.offsets[1]);
    result.tensors.push_back({std::move(e.name), *e.dtype, std::move(e.shape), data.substr(begin, end - begin)});
  }
  return result;
}

std::string write_safetensors(std::vector<TensorView> tensors,
                              const std::map<std::string, std::string>& metadata) {
  check_writable(tensors, metadata);
  std::sort(tensors.begin(), tensors.end(), [](const TensorView& a, const TensorView& b) {
    return a.dtype != b.dtype ? a.dtype > b.dtype : a.name < b.name;
  });
  std::string header = "{";
  if (!metadata.empty()) {
    header += "\"__metadata__\":{";
    for (const auto& [key, value] : metadata) {
      if (header.back() != '{') header += ',';
      append_json_string(header, key);
      header += ':';
      append_json_string(header, value);
    }
    header += '}';
  }
  int64_t offset = 0;
  for (const TensorView& t : tensors) {
    if (header.size() > 1) header += ',';
    append_json_string(header, t.name);
    const int64_t end = offset + static_cast<int64_t>(t.bytes.size());
    header += fmt::format(":{{\"dtype\":\"{}\",\"shape\":[{}],\"data_offsets\":[{},{}]}}", to_string(t.dtype),
                          fmt::join(t.shape, ","), offset, end);
    offset = end;
  }
  header += '}';
  header.resize((header.size() + 7) / 8 * 8, ' ');

  std::string out;
  out.reserve(static_cast<size_t>(kLengthBytes + offset) + header.size());
  for (int i = 0; i < kLengthBytes; i++) out += static_cast<char>(header.size() >> (8 * i));
  out += header;
  for (const TensorView& t : tensors) out += t.bytes;
  return out;
}

}  // namespace aspis
