#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

/// Archives that no honest program writes, for tests.
namespace aspis::test {

inline std::string little(uint64_t value, int size) {
  std::string s;
  for (int i = 0; i < size; i++, value >>= 8) s += static_cast<char>(value);
  return s;
}

inline uint32_t crc_of(const std::string& bytes) {
  uint32_t crc = ~0u;
  for (const char c : bytes) {
    crc ^= static_cast<unsigned char>(c);
    for (int i = 0; i < 8; i++) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
  }
  return ~crc;
}

/// A zip archive of stored entries.
inline std::string zip_of(const std::vector<std::pair<std::string, std::string>>& entries) {
  std::string body, directory;
  for (const auto& [name, content] : entries) {
    const std::string sizes = little(crc_of(content), 4) + little(content.size(), 4) + little(content.size(), 4) +
                              little(name.size(), 2) + little(0, 2);
    directory += "PK\1\2" + little(0, 12) + sizes + little(0, 10) + little(body.size(), 4) + name;
    body += "PK\3\4" + little(0, 10) + sizes + name + content;
  }
  const size_t n = entries.size();
  return body + directory + "PK\5\6" + little(0, 4) + little(n, 2) + little(n, 2) + little(directory.size(), 4) +
         little(body.size(), 4) + little(0, 2);
}

/// A checkpoint of torch.save around a pickle.
inline std::string torch_zip(const std::string& pickle, const std::vector<std::string>& storages = {},
                             const std::string& version = "3\n") {
  std::vector<std::pair<std::string, std::string>> entries{{"x/data.pkl", pickle}, {"x/version", version}};
  for (size_t i = 0; i < storages.size(); i++) entries.emplace_back("x/data/" + std::to_string(i), storages[i]);
  return zip_of(entries);
}

// Pieces of a pickle of protocol 2.
inline std::string text(const std::string& s) { return "X" + little(s.size(), 4) + s; }
inline std::string global(const std::string& module, const std::string& name) {
  return "c" + module + "\n" + name + "\n";
}
inline std::string number(int64_t v) { return "\x8a\x08" + little(static_cast<uint64_t>(v), 8); }
inline std::string numbers(const std::vector<int64_t>& values) {
  std::string s = "(";
  for (const int64_t v : values) s += number(v);
  return s + "t";
}
/// A tensor over storage `key` of `held` elements.
inline std::string tensor(const std::string& key, int64_t held, int64_t offset, const std::vector<int64_t>& shape,
                          const std::vector<int64_t>& strides, const std::string& type = "FloatStorage") {
  return global("torch._utils", "_rebuild_tensor_v2") + "((" + text("storage") + global("torch", type) +
         text(key) + text("cpu") + number(held) + "tQ" + number(offset) + numbers(shape) + numbers(strides) +
         "\x89)tR";
}
/// A dict of those.
inline std::string dict(const std::vector<std::pair<std::string, std::string>>& items) {
  std::string s = "}(";
  for (const auto& [key, value] : items) s += text(key) + value;
  return s + "u";
}
inline std::string pickle(const std::string& content) { return "\x80\x02" + content + "."; }

}  // namespace aspis::test
