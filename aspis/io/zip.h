#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace aspis {

/// What the zip reader accepts at most.
struct ZipLimits {
  int64_t entries = 100000;
  int64_t inflated_bytes = int64_t{1} << 34;  ///< of all entries that are inflated together
  int64_t ratio = 1100;                       ///< inflated to compressed; deflate cannot exceed 1032
};

struct ZipEntry {
  std::string name;         ///< never used as a path
  bool deflated = false;    ///< else stored as it is
  uint32_t crc = 0;         ///< CRC-32 of the content
  int64_t size = 0;         ///< bytes of the content
  std::string_view stored;  ///< as in the file
};

/// The directory of a zip archive, checked: end record that closes the file,
/// zip64 records where sizes need them, every local header equal to its entry of
/// the central directory, entries that overlap neither each other nor the
/// directory, no name twice, methods stored and deflated only, no encryption, one
/// disk (PKWARE APPNOTE 6.3). Throws Error(kModel).
class ZipArchive {
 public:
  ZipArchive(std::string_view bytes, std::string_view where, const ZipLimits& limits = {});

  const std::vector<ZipEntry>& entries() const { return entries_; }
  /// The entry of that name, or nullptr.
  const ZipEntry* find(std::string_view name) const;

  /// A view of a stored entry, its CRC verified. An entry that is compressed is an error.
  std::string_view stored(const ZipEntry& entry) const;
  /// The content of any entry, inflated within the limits, its CRC verified.
  std::string content(const ZipEntry& entry) const;

 private:
  std::string where_;
  ZipLimits limits_;
  std::vector<ZipEntry> entries_;
  std::map<std::string, size_t, std::less<>> by_name_;
  mutable int64_t inflated_ = 0;
};

}  // namespace aspis
