#include "aspis/io/zip.h"

#include <doctest/doctest.h>

#include <cstring>
#include <filesystem>
#include <string>

#include "aspis/base/error.h"
#include "aspis/base/file.h"

using namespace aspis;

namespace {

std::string fixture(const char* name) {
  return read_file(std::filesystem::path(ASPIS_SOURCE_DIR) / "tests/data" / name);
}

// Names and contents of an archive, or the message that refuses it.
std::string content_or_refusal(const std::string& bytes, const ZipLimits& limits = {}) {
  try {
    const ZipArchive zip(bytes, "x.zip", limits);
    std::string all;
    for (const ZipEntry& e : zip.entries()) all += e.name + "\n" + zip.content(e) + "\n";
    return all;
  } catch (const Error& e) {
    CHECK(e.kind() == ErrorKind::kModel);
    CHECK(e.parts().where == "x.zip");
    return e.what();
  }
}

bool mentions(const std::string& message, const std::string& part) {
  return message.find(part) != std::string::npos;
}

void put(std::string& bytes, size_t at, uint64_t value, int size) {
  for (int i = 0; i < size; i++) bytes[at + static_cast<size_t>(i)] = static_cast<char>(value >> (8 * i));
}

// The first entry of the central directory.
size_t central(const std::string& bytes) { return bytes.find("PK\1\2"); }

}  // namespace

TEST_CASE("an archive of torch.save: stored entries, zip64 end records, sizes after the data") {
  const std::string bytes = fixture("state.pth");
  const ZipArchive zip(bytes, "state.pth");
  REQUIRE(zip.find("state/data/0") != nullptr);
  CHECK(zip.find("state/data/9") == nullptr);
  CHECK(zip.stored(*zip.find("state/version")) == "3\n");
  CHECK(zip.stored(*zip.find("state/byteorder")) == "little");
  const std::string_view data = zip.stored(*zip.find("state/data/0"));
  REQUIRE(data.size() == 24);
  for (size_t i = 0; i < 6; i++) {
    float v = -1;
    std::memcpy(&v, data.data() + 4 * i, 4);
    CHECK(v == static_cast<float>(i));
  }
}

TEST_CASE("an archive of numpy: deflated entries, sizes in zip64 fields") {
  const std::string bytes = fixture("arrays.npz");
  const ZipArchive zip(bytes, "arrays.npz");
  const ZipEntry* ramp = zip.find("ramp.npy");
  REQUIRE(ramp != nullptr);
  CHECK(ramp->deflated);
  const std::string content = zip.content(*ramp);
  REQUIRE(content.size() == 128 + 1600);
  CHECK(content.substr(0, 6) == "\x93NUMPY");
  for (int32_t i = 0; i < 400; i++) {
    int32_t v = -1;
    std::memcpy(&v, content.data() + 128 + 4 * i, 4);
    CHECK(v == i);
  }
  // Where the bytes are wanted in place, a compressed entry is refused.
  CHECK_THROWS_AS(zip.stored(*ramp), Error);
}

TEST_CASE("an archive cut anywhere is refused, and a byte changed anywhere changes no content") {
  for (const char* name : {"state.pth", "arrays.npz"}) {
    CAPTURE(name);
    const std::string bytes = fixture(name);
    const std::string whole = content_or_refusal(bytes);
    REQUIRE_FALSE(mentions(whole, "x.zip"));
    for (size_t n = 0; n < bytes.size(); n++) {
      CAPTURE(n);
      // A buffer of exactly this size, so that a step past its end is seen.
      const std::string cut(bytes.data(), n);
      CHECK(mentions(content_or_refusal(cut), "[x.zip]"));
    }
    for (size_t at = 0; at < bytes.size(); at++) {
      for (const int mask : {0x01, 0x80, 0xff}) {
        CAPTURE(at);
        std::string other = bytes;
        other[at] = static_cast<char>(other[at] ^ mask);
        const std::string result = content_or_refusal(other);
        CHECK((result == whole || mentions(result, "[x.zip]")));
      }
    }
  }
}

TEST_CASE("what a zip archive must not be is refused by what it is") {
  const std::string bytes = fixture("arrays.npz");
  const size_t at = central(bytes);
  std::string other = bytes;
  put(other, at + 8, 1, 2);
  CHECK(mentions(content_or_refusal(other), "must not be encrypted"));

  other = bytes;
  put(other, at + 10, 12, 2);
  CHECK(mentions(content_or_refusal(other), "compression method 12"));

  other = bytes;
  put(other, at + 16, 12345, 4);
  CHECK(mentions(content_or_refusal(other), "must agree with the directory"));

  CHECK(mentions(content_or_refusal(bytes, {.entries = 1}), "at most 1 entries"));
  CHECK(mentions(content_or_refusal(bytes, {.inflated_bytes = 1000}), "at most 1000 bytes"));
  CHECK(mentions(content_or_refusal(bytes, {.ratio = 1}), "must not grow more than 1 times"));
  CHECK(mentions(content_or_refusal(bytes + "PK"), "must end with its end record"));
}

TEST_CASE("entries that share bytes are refused") {
  // Two directory entries, both with the header at byte 0.
  std::string local("PK\3\4", 4);
  local += std::string(26, '\0');
  put(local, 26, 1, 2);
  local += "a";
  std::string entry("PK\1\2", 4);
  entry += std::string(42, '\0');
  put(entry, 28, 1, 2);
  std::string end("PK\5\6", 4);
  end += std::string(18, '\0');
  put(end, 8, 1, 2);
  put(end, 10, 1, 2);
  put(end, 12, 47, 4);
  put(end, 16, local.size(), 4);
  const std::string one = local + entry + "a" + end;
  CHECK(content_or_refusal(one) == "a\n\n");
  put(end, 8, 2, 2);
  put(end, 10, 2, 2);
  put(end, 12, 94, 4);
  CHECK(mentions(content_or_refusal(local + entry + "a" + entry + "a" + end), "a name twice"));
  // The second entry's header lies inside the first one's content.
  std::string outer = local;
  outer.insert(31, local);
  outer[30] = 'b';
  put(outer, 18, local.size(), 4);
  put(outer, 22, local.size(), 4);
  std::string around = entry, inside = entry;
  put(around, 20, local.size(), 4);
  put(around, 24, local.size(), 4);
  put(inside, 42, 31, 4);
  put(end, 16, outer.size(), 4);
  CHECK(mentions(content_or_refusal(outer + around + "b" + inside + "a" + end), "must not overlap"));
}
