#include "aspis/io/zip.h"

#include <fmt/format.h>
#include <zlib.h>

#include <algorithm>

#include "aspis/io/cursor.h"
#include "aspis/io/names.h"

namespace aspis {
namespace {

constexpr uint32_t kLocal = 0x04034b50, kCentral = 0x02014b50, kEnd = 0x06054b50, kEnd64 = 0x06064b50,
                   kLocator64 = 0x07064b50, kDescriptor = 0x08074b50;
constexpr size_t kEndBytes = 22, kLocatorBytes = 20;
constexpr uint64_t kIn64 = 0xffffffff;  // a 32-bit size that stands in the zip64 extra field
constexpr int kStored = 0, kDeflated = 8;
constexpr uint16_t kHasDescriptor = 1 << 3;
// Deflate's two level bits, the descriptor and UTF-8 names.
constexpr uint16_t kKnownFlags = 1 << 1 | 1 << 2 | kHasDescriptor | 1 << 11;

struct Directory {
  uint64_t offset, size, entries;
  size_t end;  // where the end records begin
};

struct Header {
  uint64_t flags, method, crc, packed, size, offset;
};

// Replaces sizes that say so by those of the zip64 extra field, in its order.
void read_zip64(std::string_view extra, Header& h, bool with_offset, const ModelFault& fault) {
  Cursor c(extra, fault);
  bool found = false;
  while (c.left() >= 4) {
    const uint16_t id = c.u16(), n = c.u16();
    // Some writers pad the field with rubbish; nothing of it is used then.
    if (n > c.left()) break;
    Cursor field(c.take(n), fault);
    if (id != 1 || found) continue;
    found = true;
    if (h.size == kIn64) h.size = field.u64();
    if (h.packed == kIn64) h.packed = field.u64();
    if (with_offset && h.offset == kIn64) h.offset = field.u64();
  }
}

Directory find_directory(std::string_view bytes, const ModelFault& fault) {
  constexpr size_t kMostComment = 0xffff;
  if (bytes.size() < kEndBytes)
    fault("a zip archive must have 22 bytes at least", fmt::format("{}", bytes.size()));
  size_t at = bytes.size() - kEndBytes;
  const size_t lowest = at > kMostComment ? at - kMostComment : 0;
  for (;; at--) {
    Cursor c(bytes, fault, at);
    if (c.u32() == kEnd) {
      c.take(16);
      if (c.u16() == c.left()) break;
    }
    if (at == lowest)
      fault("a zip archive must end with its end record", "none; the file is cut off or no zip archive");
  }
  Cursor c(bytes, fault, at + 4);
  const uint16_t disk = c.u16(), start_disk = c.u16();
  uint64_t here = c.u16(), entries = c.u16(), size = c.u32(), offset = c.u32();
  if (disk != 0 || start_disk != 0) fault("a zip archive must be one file", "a part of several");
  Directory d{offset, size, entries, at};
  if (at >= kLocatorBytes) {
    Cursor locator(bytes, fault, at - kLocatorBytes);
    if (locator.u32() == kLocator64) {
      const uint32_t first = locator.u32();
      const uint64_t end64 = locator.u64();
      const uint32_t disks = locator.u32();
      if (first != 0 || disks > 1) fault("a zip archive must be one file", "a part of several");
      if (end64 >= at - kLocatorBytes)
        fault("the zip64 end record must lie before its locator", fmt::format("{}", end64));
      Cursor e(bytes, fault, static_cast<size_t>(end64));
      if (e.u32() != kEnd64) fault("the zip64 locator must point at its record", "something else");
      const uint64_t record = e.u64();
      if (record < 44 || record != at - kLocatorBytes - end64 - 12) {
        fault("the zip64 end record must reach to its locator", fmt::format("{} bytes", record));
      }
      e.take(4);
      if (e.u32() != 0 || e.u32() != 0) fault("a zip archive must be one file", "a part of several");
      here = e.u64();
      d.entries = e.u64();
      d.size = e.u64();
      d.offset = e.u64();
      d.end = static_cast<size_t>(end64);
    }
  }
  if (here != d.entries)
    fault("the two counts of the end record must agree", fmt::format("{} and {}", here, d.entries));
  return d;
}

}  // namespace

ZipArchive::ZipArchive(std::string_view bytes, std::string_view where, const ZipLimits& limits)
    : where_(where), limits_(limits) {
  const ModelFault fault(where, "get the file again; it is damaged or not a zip archive");
  const Directory d = find_directory(bytes, fault);
  if (d.entries > static_cast<uint64_t>(limits.entries)) {
    fault(fmt::format("a zip archive must have at most {} entries", limits.entries), fmt::format("{}", d.entries));
  }
  if (d.offset > d.end || d.size != d.end - d.offset) {
    fault("the zip directory must end where the end record begins",
          fmt::format("{} bytes at byte {} before byte {}", d.size, d.offset, d.end));
  }
  const std::string_view body = bytes.substr(0, static_cast<size_t>(d.offset));
  Cursor c(bytes.substr(static_cast<size_t>(d.offset), static_cast<size_t>(d.size)), fault);
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  for (uint64_t i = 0; i < d.entries; i++) {
    if (c.u32() != kCentral) fault("the zip directory must hold its entries one after another", "something else");
    Header h{};
    c.take(4);  // versions
    h.flags = c.u16();
    h.method = c.u16();
    c.take(4);  // time
    h.crc = c.u32();
    h.packed = c.u32();
    h.size = c.u32();
    const uint16_t name_bytes = c.u16(), extra_bytes = c.u16(), comment_bytes = c.u16();
    const uint16_t disk = c.u16();
    c.take(6);  // attributes
    h.offset = c.u32();
    ZipEntry e;
    e.name = std::string(c.take(name_bytes));
    read_zip64(c.take(extra_bytes), h, true, fault);
    c.take(comment_bytes);
    const std::string shown = shown_name(e.name);
    if (disk != 0) fault("a zip archive must be one file", "a part of several");
    if (h.flags & 1) fault(fmt::format("zip entry {} must not be encrypted", shown), "encryption");
    if (h.flags & ~uint64_t{kKnownFlags})
      fault(fmt::format("zip entry {} must have known flags", shown), fmt::format("{:#x}", h.flags));
    if (h.method != kStored && h.method != kDeflated) {
      fault(fmt::format("zip entry {} must be stored or deflated", shown),
            fmt::format("compression method {}", h.method));
    }
    e.deflated = h.method == kDeflated;

    Cursor local(body, fault, static_cast<size_t>(std::min<uint64_t>(h.offset, body.size())));
    if (local.u32() != kLocal)
      fault(fmt::format("zip entry {} must begin with its header", shown), "something else");
    Header l{};
    local.take(2);
    l.flags = local.u16();
    l.method = local.u16();
    local.take(4);
    l.crc = local.u32();
    l.packed = local.u32();
    l.size = local.u32();
    const uint16_t local_name = local.u16(), local_extra = local.u16();
    const std::string_view name = local.take(local_name);
    read_zip64(local.take(local_extra), l, false, fault);
    // With a descriptor the sizes follow the data, and the header may hold zeros.
    const bool later = (l.flags & kHasDescriptor) && l.crc == 0 && l.packed == 0 && l.size == 0;
    const bool same = name == e.name && l.flags == h.flags && l.method == h.method &&
                      (later || (l.crc == h.crc && l.packed == h.packed && l.size == h.size));
    if (!same)
      fault(fmt::format("the header of zip entry {} must agree with the directory", shown),
            "another name, size or CRC");
    if (h.size > static_cast<uint64_t>(INT64_MAX))
      fault(fmt::format("zip entry {} must fit in 63 bits", shown), "more");
    if (!e.deflated && h.size != h.packed) {
      fault(fmt::format("stored zip entry {} must have one size", shown),
            fmt::format("{} and {}", h.size, h.packed));
    }
    e.stored = local.take(h.packed);
    if (later && local.left() >= 4) {
      Cursor descriptor = local;
      if (descriptor.u32() == kDescriptor) local = descriptor;
    }
    ranges.emplace_back(h.offset, local.at());
    e.crc = static_cast<uint32_t>(h.crc);
    e.size = static_cast<int64_t>(h.size);
    if (!by_name_.emplace(e.name, entries_.size()).second)
      fault("a zip archive must not hold a name twice", shown);
    entries_.push_back(std::move(e));
  }
  if (c.left() != 0)
    fault("the zip directory must hold its entries and nothing else", fmt::format("{} more bytes", c.left()));
  std::sort(ranges.begin(), ranges.end());
  for (size_t i = 1; i < ranges.size(); i++) {
    if (ranges[i].first < ranges[i - 1].second) {
      fault("the entries of a zip archive must not overlap", fmt::format("two at byte {}", ranges[i].first));
    }
  }
}

const ZipEntry* ZipArchive::find(std::string_view name) const {
  const auto at = by_name_.find(name);
  return at == by_name_.end() ? nullptr : &entries_[at->second];
}

namespace {

void check_crc(const ZipEntry& e, std::string_view content, const ModelFault& fault) {
  uLong crc = crc32_z(0, nullptr, 0);
  crc = crc32_z(crc, reinterpret_cast<const Bytef*>(content.data()), content.size());
  if (crc != e.crc) {
    fault(fmt::format("zip entry {} must have the checksum {:08x}", shown_name(e.name), e.crc),
          fmt::format("{:08x}", crc));
  }
}

}  // namespace

std::string_view ZipArchive::stored(const ZipEntry& entry) const {
  const ModelFault fault(where_, "get the file again; it is damaged");
  if (entry.deflated) {
    fault(fmt::format("zip entry {} must be stored", shown_name(entry.name)), "a compressed one",
          "a file as torch.save writes it, not packed again");
  }
  check_crc(entry, entry.stored, fault);
  return entry.stored;
}

std::string ZipArchive::content(const ZipEntry& entry) const {
  if (!entry.deflated) return std::string(stored(entry));
  const ModelFault fault(where_, "get the file again; it is damaged");
  const std::string shown = shown_name(entry.name);
  const auto packed = static_cast<int64_t>(entry.stored.size());
  if (entry.size / limits_.ratio > packed) {
    fault(fmt::format("zip entry {} must not grow more than {} times", shown, limits_.ratio),
          fmt::format("{} from {} bytes", entry.size, packed));
  }
  if (entry.size > limits_.inflated_bytes - inflated_) {
    fault(fmt::format("the archive must inflate to at most {} bytes", limits_.inflated_bytes), "more");
  }
  inflated_ += entry.size;
  std::string out(static_cast<size_t>(entry.size), '\0');
  z_stream z{};
  if (inflateInit2(&z, -MAX_WBITS) != Z_OK)
    throw Error(ErrorKind::kDevice, {.where = where_, .required = "memory for zlib"});
  // zlib counts in 32 bits, so both sides go in pieces.
  constexpr int64_t kPiece = 1 << 30;
  int64_t in = 0, done = 0;
  int status = Z_OK;
  char none = 0;
  while (status == Z_OK) {
    const int64_t give = std::min(kPiece, packed - in), want = std::min(kPiece, entry.size - done);
    z.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(entry.stored.data() + in));
    z.avail_in = static_cast<uInt>(give);
    z.next_out = reinterpret_cast<Bytef*>(want > 0 ? out.data() + done : &none);
    z.avail_out = static_cast<uInt>(want);
    status = inflate(&z, Z_NO_FLUSH);
    const int64_t took = give - z.avail_in, gave = want - z.avail_out;
    in += took;
    done += gave;
    if (status == Z_OK && took == 0 && gave == 0) break;
  }
  inflateEnd(&z);
  if (status != Z_STREAM_END || done != entry.size || in != packed) {
    fault(fmt::format("zip entry {} must inflate to {} bytes", shown, entry.size),
          fmt::format("damage after {}", done));
  }
  check_crc(entry, out, fault);
  return out;
}

}  // namespace aspis
