#include "aspis/io/safetensors.h"

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "aspis/base/clock.h"
#include "aspis/base/error.h"
#include "aspis/base/file.h"
#include "aspis/base/rng.h"

using namespace aspis;
namespace fs = std::filesystem;

namespace {

std::string bytes_of_length(uint64_t n) {
  std::string s;
  for (int i = 0; i < 8; i++) s += static_cast<char>(n >> (8 * i));
  return s;
}

// A file with this header and so many bytes of data.
std::string file_with(const std::string& header, size_t data_bytes) {
  return bytes_of_length(header.size()) + header + std::string(data_bytes, '\x11');
}

// "" if the file is accepted, else the message.
std::string refusal(const std::string& bytes) {
  try {
    parse_safetensors(bytes, "x.safetensors");
  } catch (const Error& e) {
    CHECK(e.kind() == ErrorKind::kModel);
    CHECK(e.parts().where == "x.safetensors");
    CHECK_FALSE(e.parts().required.empty());
    return e.what();
  }
  return "";
}

bool mentions(const std::string& message, const std::string& part) { return message.find(part) != std::string::npos; }

std::string sample() {
  static const float weights[6] = {1, -2, 3.5f, 0, 1e-38f, 7};
  static const int64_t big[2] = {-1, INT64_C(9007199254740993)};
  const auto view = [](const void* p, size_t n) { return std::string_view(static_cast<const char*>(p), n); };
  return write_safetensors({{"layers.0.weight", TensorDtype::kF32, {2, 3}, view(weights, 24)},
                            {"ids", TensorDtype::kI64, {2}, view(big, 16)},
                            {"scalar", TensorDtype::kF32, {}, view(weights, 4)},
                            {"empty", TensorDtype::kF16, {0, 4}, {}},
                            {"mask", TensorDtype::kBool, {3}, std::string_view("\1\0\1", 3)}},
                           {{"format", "aspis"}, {"note", "quote \" backslash \\ newline \n bell \a umlaut \xc3\xbc"}});
}

struct Folder {
  fs::path path = fs::temp_directory_path() / ("aspis-safetensors-" + std::to_string(::getpid()));
  Folder() {
    fs::remove_all(path);
    fs::create_directories(path);
  }
  ~Folder() { fs::remove_all(path); }
};

}  // namespace

TEST_CASE("what is written is read again: names, types, shapes, bytes, metadata") {
  const std::string file = sample();
  const Safetensors s = parse_safetensors(file, "sample");
  REQUIRE(s.tensors.size() == 5);
  const TensorView* w = s.find("layers.0.weight");
  REQUIRE(w != nullptr);
  CHECK(w->dtype == TensorDtype::kF32);
  CHECK(w->shape == std::vector<int64_t>{2, 3});
  float third = 0;
  std::memcpy(&third, w->bytes.data() + 8, 4);
  CHECK(third == 3.5f);
  CHECK(s.find("scalar")->shape.empty());
  CHECK(s.find("empty")->bytes.empty());
  CHECK(s.find("empty")->shape == std::vector<int64_t>{0, 4});
  CHECK(s.find("mask")->bytes == std::string_view("\1\0\1", 3));
  CHECK(s.find("absent") == nullptr);
  CHECK(s.metadata.at("note") == "quote \" backslash \\ newline \n bell \a umlaut \xc3\xbc");
}

TEST_CASE("write, read, write gives equal bytes, whatever the order of the list") {
  const std::string file = sample();
  Safetensors s = parse_safetensors(file, "sample");
  CHECK(write_safetensors(s.tensors, s.metadata) == file);
  std::reverse(s.tensors.begin(), s.tensors.end());
  CHECK(write_safetensors(s.tensors, s.metadata) == file);
  CHECK(write_safetensors({}) == bytes_of_length(8) + "{}      ");
}

TEST_CASE("random files survive write and read, all data aligned to their element size") {
  Rng rng(1, "safetensors");
  for (int round = 0; round < 200; round++) {
    std::vector<std::string> storage;
    std::vector<TensorView> tensors;
    const auto count = static_cast<int>(rng.below(8));
    storage.reserve(static_cast<size_t>(count));
    for (int i = 0; i < count; i++) {
      TensorView t;
      t.name = "t" + std::to_string(i);
      t.dtype = static_cast<TensorDtype>(rng.below(13));
      int64_t n = size_of(t.dtype);
      for (auto rank = rng.below(5); rank > 0; rank--) {
        t.shape.push_back(static_cast<int64_t>(rng.below(5)));
        n *= t.shape.back();
      }
      storage.emplace_back();
      for (int64_t k = 0; k < n; k++) storage.back() += static_cast<char>(rng.next_u32());
      t.bytes = storage.back();
      tensors.push_back(t);
    }
    const std::string file = write_safetensors(tensors);
    const Safetensors s = parse_safetensors(file, "random");
    REQUIRE(s.tensors.size() == tensors.size());
    for (const auto& t : tensors) {
      const TensorView* r = s.find(t.name);
      REQUIRE(r != nullptr);
      CHECK(r->dtype == t.dtype);
      CHECK(r->shape == t.shape);
      CHECK(r->bytes == t.bytes);
      if (!r->bytes.empty()) CHECK((r->bytes.data() - file.data()) % size_of(r->dtype) == 0);
    }
  }
}

TEST_CASE("a file of the format's own library is read") {
  // Made by tools/golden/make_safetensors.py, which states the content.
  const std::string file = read_file(fs::path(ASPIS_SOURCE_DIR) / "tests/data/reference.safetensors");
  const Safetensors s = parse_safetensors(file, "reference");
  CHECK(s.tensors.size() == 13);
  CHECK(s.metadata.at("made_by") == "make_safetensors.py");
  for (int d = 0; d < 13; d++) {
    const auto dtype = static_cast<TensorDtype>(d);
    const TensorView* t = s.find("values." + std::string(to_string(dtype)));
    REQUIRE(t != nullptr);
    CHECK(t->dtype == dtype);
    CHECK(t->shape == std::vector<int64_t>{2, 3});
  }
  float f[6];
  std::memcpy(f, s.find("values.F32")->bytes.data(), sizeof f);
  for (int i = 0; i < 6; i++) CHECK(f[i] == static_cast<float>(i));
  uint16_t h[6];
  std::memcpy(h, s.find("values.BF16")->bytes.data(), sizeof h);
  CHECK(h[3] == 0x4040);  // 3 in bfloat16
  std::memcpy(h, s.find("values.F16")->bytes.data(), sizeof h);
  CHECK(h[3] == 0x4200);  // 3 in float16
  // The same content written here has the same bytes.
  CHECK(write_safetensors(s.tensors, s.metadata) == file);
}

TEST_CASE("every truncated file is refused") {
  const std::string file = sample();
  for (size_t n = 0; n < file.size(); n++) {
    // A copy of its own size lets the address sanitizer see one byte too many.
    const std::string cut(file.data(), n);
    CHECK_FALSE(refusal(cut).empty());
  }
  CHECK_FALSE(refusal(file + "x").empty());
  CHECK(refusal(file).empty());
}

TEST_CASE("every flipped byte gives an error or tensors that lie in the file") {
  const std::string file = sample();
  int refused = 0, accepted = 0;
  for (size_t i = 0; i < file.size(); i++) {
    for (const int mask : {1, 2, 4, 8, 16, 32, 64, 128, 255}) {
      std::string bad = file;
      bad[i] = static_cast<char>(bad[i] ^ mask);
      try {
        const Safetensors s = parse_safetensors(bad, "bad");
        accepted++;
        size_t total = 0;
        for (const auto& t : s.tensors) {
          int64_t n = size_of(t.dtype);
          for (const int64_t d : t.shape) n *= d;
          CHECK(n == static_cast<int64_t>(t.bytes.size()));
          CHECK(t.bytes.data() >= bad.data());
          CHECK(t.bytes.data() + t.bytes.size() <= bad.data() + bad.size());
          total += t.bytes.size();
        }
        CHECK(total == 24 + 16 + 4 + 3);
      } catch (const Error& e) {
        CHECK(e.kind() == ErrorKind::kModel);
        refused++;
      }
    }
  }
  CHECK(refused > 1000);
  CHECK(accepted > 47 * 9 - 1);  // the data themselves carry no checksum
}

TEST_CASE("S1: a shape whose product wraps is refused") {
  const std::string wraps =
      R"({"a":{"dtype":"F32","shape":[65536,65536,65536,65536],"data_offsets":[0,0]}})";
  CHECK(mentions(refusal(file_with(wraps, 0)), "size of its shape"));
  // Also when a dimension of zero would hide it.
  const std::string hidden = R"({"a":{"dtype":"F32","shape":[0,2147483647,2147483647,2147483647],)"
                             R"("data_offsets":[0,0]}})";
  CHECK(mentions(refusal(file_with(hidden, 0)), "size of its shape"));
}

TEST_CASE("S2: negative dimensions are refused") {
  CHECK(mentions(refusal(file_with(R"({"a":{"dtype":"F32","shape":[-1,-1],"data_offsets":[0,4]}})", 4)),
                 "non-negative integers; got -1"));
  CHECK_FALSE(refusal(file_with(R"({"a":{"dtype":"F32","shape":[-0],"data_offsets":[0,0]}})", 0)).empty());
}

TEST_CASE("S3: numbers are not narrowed or converted") {
  for (const char* dim : {"4294967297", "2147483648", "1.5", "1.0", "1e0", "true", "\"1\"", "null", "[1]",
                          "18446744073709551617", "1e400"}) {
    CAPTURE(dim);
    const std::string header =
        std::string(R"({"a":{"dtype":"U8","shape":[)") + dim + R"(],"data_offsets":[0,1]}})";
    CHECK_FALSE(refusal(file_with(header, 1)).empty());
  }
  CHECK(refusal(file_with(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1)).empty());
}

TEST_CASE("S4: offsets that wrap, point into the header or are not integers are refused") {
  for (const char* offsets : {"[18446744073709551600,18446744073709551608]", "[0.0,8.0]", "[-8,0]", "[8,0]", "[0,16]",
                              "[0]", "[]", "[0,8,8]", "[9223372036854775807,9223372036854775807]", "[\"0\",8]"}) {
    CAPTURE(offsets);
    const std::string header =
        std::string(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":)") + offsets + "}}";
    CHECK_FALSE(refusal(file_with(header, 8)).empty());
  }
}

TEST_CASE("S5: overlap, holes, trailing data and duplicate names are refused, unaligned data are read") {
  const auto two = [](const char* first, const char* second, const char* name = "b") {
    return std::string(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)") + first + R"(},")" + name +
           R"(":{"dtype":"U8","shape":[4],"data_offsets":)" + second + "}}";
  };
  CHECK(refusal(file_with(two("[0,4]", "[4,8]"), 8)).empty());
  CHECK(refusal(file_with(two("[4,8]", "[0,4]"), 8)).empty());
  CHECK(mentions(refusal(file_with(two("[0,4]", "[2,6]"), 6)), "must begin where the one before it ends"));
  CHECK(mentions(refusal(file_with(two("[0,4]", "[0,4]"), 4)), "must begin where"));
  CHECK(mentions(refusal(file_with(two("[0,4]", "[5,9]"), 9)), "must begin where"));
  CHECK(mentions(refusal(file_with(two("[1,5]", "[5,9]"), 9)), "must begin where"));
  CHECK(mentions(refusal(file_with(two("[0,4]", "[4,8]"), 9)), "must cover the 9 bytes"));
  CHECK(mentions(refusal(file_with(two("[0,4]", "[4,8]", "a"), 8)), "twice"));
  CHECK(mentions(refusal(file_with(two("[0,4]", "[4,8]", "\\u0061"), 8)), "twice"));
  CHECK(mentions(refusal(file_with(R"({"__metadata__":{"k":"1","k":"2"}})", 0)), "twice"));
  CHECK(mentions(
      refusal(file_with(R"({"a":{"dtype":"U8","dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 4)), "twice"));
  // Old writers padded nothing, so a header of any length is taken.
  const std::string odd = R"({ "a":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}})";
  for (size_t pad = 0; pad < 8; pad++) CHECK(refusal(file_with(odd + std::string(pad, ' '), 8)).empty());
}

TEST_CASE("S6: deep or huge headers are refused at once, in time and memory") {
  const double begin = monotonic_seconds();
  CHECK_FALSE(refusal(file_with("{" + std::string(15u << 20, '['), 0)).empty());
  CHECK_FALSE(refusal(file_with(R"({"a":)" + std::string(15u << 20, '['), 0)).empty());
  CHECK_FALSE(refusal(file_with(R"({"a":{"shape":)" + std::string(15u << 20, '['), 0)).empty());
  std::string nested;
  for (int i = 0; i < 100000; i++) nested += R"({"a":)";
  CHECK_FALSE(refusal(file_with(nested, 0)).empty());
  CHECK(mentions(refusal(bytes_of_length((16u << 20) + 1) + std::string((16u << 20) + 1, ' ')), "at most 16777216"));
  CHECK(mentions(refusal(bytes_of_length(UINT64_MAX) + "{}"), "at most 16777216"));
  CHECK(mentions(refusal(bytes_of_length(0)), "begin with '{'"));
  CHECK(monotonic_seconds() - begin < 20);  // 8 s for one of them would be a tree
}

TEST_CASE("S7: a rank above 8 is refused") {
  const auto rank = [](int n) {
    std::string dims = "1";
    for (int i = 1; i < n; i++) dims += ",1";
    return file_with(R"({"a":{"dtype":"U8","shape":[)" + dims + R"(],"data_offsets":[0,1]}})", 1);
  };
  CHECK(refusal(rank(8)).empty());
  CHECK(mentions(refusal(rank(9)), "at most 8 dimensions"));
  CHECK(mentions(refusal(rank(1000)), "at most 8 dimensions"));
}

TEST_CASE("S8: every type keeps its meaning, others are refused by name") {
  for (const char* type : {"F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "C64", "f32", "", "F32 "}) {
    CAPTURE(type);
    const std::string header =
        std::string(R"({"a":{"dtype":")") + type + R"(","shape":[8],"data_offsets":[0,8]}})";
    CHECK(mentions(refusal(file_with(header, 8)), "'" + std::string(type) + "'"));
  }
  const double value = 0.1;
  const std::string file = write_safetensors(
      {{"a", TensorDtype::kF64, {1}, std::string_view(reinterpret_cast<const char*>(&value), 8)}});
  CHECK(parse_safetensors(file, "f").tensors[0].dtype == TensorDtype::kF64);
}

TEST_CASE("S9: what was checked is what is used, also if the file changes afterwards") {
  const Folder folder;
  const fs::path path = folder.path / "a.safetensors";
  write_file_atomic(path, sample(), false);
  const std::string bytes = read_file(path);
  const Safetensors s = parse_safetensors(bytes, path.string());
  const std::string before(s.find("ids")->bytes);
  std::string zeros(bytes.size(), '\0');
  AppendFile(path).write(zeros);
  fs::resize_file(path, 3);
  CHECK(s.find("ids")->bytes == before);
  for (const auto& t : s.tensors) {
    CHECK(t.bytes.data() >= bytes.data());
    CHECK(t.bytes.data() + t.bytes.size() <= bytes.data() + bytes.size());
  }
}

TEST_CASE("S10: a pipe or a folder is refused, not read") {
  const Folder folder;
  const fs::path pipe = folder.path / "pipe";
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  CHECK_THROWS_WITH_AS(read_file(pipe), doctest::Contains("regular file"), Error);
  CHECK_THROWS_WITH_AS(read_file(folder.path), doctest::Contains("a folder"), Error);
}

TEST_CASE("headers that are not the format are refused with a reason") {
  for (const char* header :
       {"[]", "{", "{}x", "{} {}", " {}", "\xef\xbb\xbf{}", R"({"a":1})", R"({"a":[]})", R"({"a":null})", R"({"a":"b"})",
        R"({"a":{}})", R"({"a":{"dtype":"U8"}})", R"({"a":{"dtype":"U8","shape":[0]}})",
        R"({"a":{"dtype":"U8","data_offsets":[0,0]}})", R"({"a":{"dtype":"U8","shape":0,"data_offsets":[0,0]}})",
        R"({"a":{"dtype":8,"shape":[0],"data_offsets":[0,0]}})",
        R"({"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"more":1}})",
        R"({"a":{"dtype":"U8","shape":[[0]],"data_offsets":[0,0]}})",
        R"({"a":{"dtype":"U8","shape":{},"data_offsets":[0,0]}})", R"({"__metadata__":1})", R"({"__metadata__":[]})",
        R"({"__metadata__":{"a":1}})", R"({"__metadata__":{"a":{}}})", R"({"__metadata__":{},"__metadata__":{}})",
        R"({"a\u0000b":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})", "{\"\xff\":{}}", "{nan}", "{,}",
        R"({"a":{"dtype":"U8","shape":[0,],"data_offsets":[0,0]}})"}) {
    CAPTURE(header);
    CHECK_FALSE(refusal(file_with(header, 0)).empty());
  }
  CHECK(mentions(refusal(file_with(std::string("{}\0 hidden", 10), 0)), "zero byte"));
  CHECK(refusal(file_with("{}", 0)).empty());
  CHECK(refusal(file_with(R"({"__metadata__":{}})", 0)).empty());
}

TEST_CASE("a very long name is shortened in the message") {
  const std::string name(1u << 20, 'n');
  const std::string message = refusal(file_with("{\"" + name + R"(":{"dtype":"X","shape":[0],"data_offsets":[0,0]}})", 0));
  CHECK(message.size() < 400);
  CHECK(mentions(message, "nnn..."));
}

TEST_CASE("the writer refuses what the reader would refuse") {
  const std::string four(4, '\0');
  const auto write = [&](const std::string& name, std::vector<int64_t> shape) {
    return write_safetensors({{name, TensorDtype::kU8, std::move(shape), four}});
  };
  CHECK_NOTHROW(write("a", {4}));
  CHECK_THROWS_AS(write("a", {5}), Error);
  CHECK_THROWS_AS(write("a", {-2, -2}), Error);
  CHECK_THROWS_AS(write("a\n", {4}), Error);
  CHECK_THROWS_AS(write("\xff", {4}), Error);
  CHECK_THROWS_AS(write("__metadata__", {4}), Error);
  CHECK_THROWS_AS(write_safetensors({{"a", TensorDtype::kU8, {4}, four}, {"a", TensorDtype::kU8, {4}, four}}), Error);
  CHECK_THROWS_AS(write_safetensors({}, {{"k", "\xff"}}), Error);
  std::vector<int64_t> nine(9, 1);
  nine[0] = 4;
  CHECK_THROWS_AS(write("a", nine), Error);
}
