#include "aspis/io/npy_writer.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>
#include <cstring>
#include <set>

#include "aspis/base/error.h"

namespace aspis {
namespace {

std::string npy_header(std::string_view descr, const std::vector<int64_t>& shape) {
  std::string tuple;
  for (const int64_t n : shape) tuple += std::to_string(n) + ", ";
  if (shape.size() > 1) tuple.resize(tuple.size() - 2);
  if (shape.size() == 1) tuple.pop_back();  // "(3,)"
  std::string dict = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}), }}", descr, tuple);
  // Magic, version and length are 10 bytes; the data begin at a multiple of 64.
  dict.append((64 - (10 + dict.size() + 1) % 64) % 64, ' ');
  dict += '\n';
  std::string out("\x93NUMPY\x01\x00", 8);
  out += static_cast<char>(dict.size() & 0xff);
  out += static_cast<char>(dict.size() >> 8);
  return out + dict;
}

/// Code points of UTF-8 text. Bytes that are no UTF-8 become themselves.
std::vector<uint32_t> code_points(std::string_view text) {
  std::vector<uint32_t> points;
  for (size_t i = 0; i < text.size();) {
    const auto first = static_cast<uint8_t>(text[i]);
    const size_t more = first >= 0xf0 ? 3 : first >= 0xe0 ? 2 : first >= 0xc0 ? 1 : 0;
    uint32_t point = more == 3 ? first & 0x07u : more == 2 ? first & 0x0fu : more == 1 ? first & 0x1fu : first;
    for (size_t k = 1; k <= more && i + k < text.size(); k++) {
      point = point << 6 | (static_cast<uint8_t>(text[i + k]) & 0x3fu);
    }
    points.push_back(point);
    i += more + 1;
  }
  return points;
}

void put(std::string& out, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; i++) out += static_cast<char>(value >> (8 * i) & 0xff);
}

}  // namespace

std::string write_npy(std::span<const float> values, const std::vector<int64_t>& shape) {
  int64_t size = 1;
  for (const int64_t n : shape) size *= n;
  require(size == static_cast<int64_t>(values.size()), [&] {
    return Error::Parts{.where = "write_npy",
                        .required = fmt::format("{} values for the shape ({})", size, fmt::join(shape, ", ")),
                        .got = std::to_string(values.size()),
                        .hint = ""};
  });
  std::string out = npy_header("<f4", shape);
  const size_t before = out.size();
  out.resize(before + 4 * values.size());
  if (!values.empty()) std::memcpy(out.data() + before, values.data(), 4 * values.size());
  return out;
}

std::string write_npy(const std::vector<std::string>& texts) {
  std::vector<std::vector<uint32_t>> all;
  size_t longest = 1;
  for (const auto& t : texts) {
    all.push_back(code_points(t));
    longest = std::max(longest, all.back().size());
  }
  std::string out = npy_header(fmt::format("<U{}", longest), {static_cast<int64_t>(texts.size())});
  for (auto& points : all) {
    points.resize(longest);
    for (const uint32_t p : points) put(out, p, 4);
  }
  return out;
}

std::string write_npz(const std::vector<std::pair<std::string, std::string>>& arrays) {
  std::string out, directory;
  std::set<std::string> names;
  for (const auto& [name, bytes] : arrays) {
    const std::string file = name + ".npy";
    require(names.insert(file).second && file.size() < 1 << 16 &&
                out.size() + bytes.size() + (size_t{1} << 20) < (uint64_t{1} << 32),
            [&] {
              return Error::Parts{.where = "write_npz",
                                  .required = "names must differ and the archive must stay below 4 GiB",
                                  .got = fmt::format("'{}' of {} bytes", name, bytes.size()),
                                  .hint = "fewer pictures or stages"};
            });
    const uint64_t at = out.size();
    uLong crc = crc32_z(0, nullptr, 0);
    crc = crc32_z(crc, reinterpret_cast<const Bytef*>(bytes.data()), bytes.size());
    // What local header and directory entry have in common (APPNOTE 4.3.7, 4.3.12):
    // version 2.0, no flags, stored, 1 January 1980, sizes, name, no extra field.
    std::string common;
    put(common, 20, 2);
    put(common, 0x0800, 2);  // names are UTF-8
    put(common, 0, 2);
    put(common, 0x00210000, 4);
    put(common, crc, 4);
    put(common, bytes.size(), 4);
    put(common, bytes.size(), 4);
    put(common, file.size(), 2);
    put(common, 0, 2);
    put(out, 0x04034b50, 4);
    out += common + file + bytes;
    put(directory, 0x02014b50, 4);
    put(directory, 20, 2);
    directory += common;
    directory.append(2 + 2 + 2 + 4, '\0');  // comment, disk, attributes
    put(directory, at, 4);
    directory += file;
  }
  const uint64_t at = out.size();
  out += directory;
  put(out, 0x06054b50, 4);
  put(out, 0, 4);
  put(out, arrays.size(), 2);
  put(out, arrays.size(), 2);
  put(out, directory.size(), 4);
  put(out, at, 4);
  put(out, 0, 2);
  return out;
}

}  // namespace aspis
