#include "aspis/io/npy_writer.h"

#include <doctest/doctest.h>

#include <cstring>

#include "aspis/base/error.h"
#include "aspis/io/npy.h"
#include "aspis/io/zip.h"

namespace aspis {

TEST_CASE("an npy file is read back as it was written, its data at a multiple of 64") {
  const std::vector<float> values = {1, -2, 0.5f, 4, 5, 6};
  for (const std::vector<int64_t>& shape : {std::vector<int64_t>{6}, {2, 3}, {1, 2, 3, 1}}) {
    const std::string bytes = write_npy(values, shape);
    CHECK((bytes.size() - 24) % 64 == 0);
    const WeightTensor t = parse_npy(bytes, "a", "test");
    CHECK(t.shape == shape);
    CHECK(t.dtype == TensorDtype::kF32);
    REQUIRE(t.bytes.size() == 24);
    CHECK(std::memcmp(t.bytes.data(), values.data(), 24) == 0);
  }
  CHECK(write_npy(values, {6}).find("'shape': (6,), }") != std::string::npos);
  CHECK(parse_npy(write_npy({}, {0, 5}), "a", "test").shape == std::vector<int64_t>{0, 5});
  CHECK_THROWS_AS(write_npy(values, {2, 2}), Error);
}

TEST_CASE("texts become code points of one width") {
  const std::string bytes = write_npy({"ab", "\xc3\xa9\xe2\x82\xac\xf0\x9f\x90\x8d", ""});
  CHECK(bytes.find("{'descr': '<U3', 'fortran_order': False, 'shape': (3,), }") == 10);
  const uint32_t want[9] = {'a', 'b', 0, 0xe9, 0x20ac, 0x1f40d, 0, 0, 0};
  REQUIRE(bytes.size() >= sizeof want);
  CHECK(std::memcmp(bytes.data() + bytes.size() - sizeof want, want, sizeof want) == 0);
  // Cut off in the middle of a character: something, but nothing beyond the end.
  CHECK(write_npy({"a\xf0\x9f"}).size() > 0);
}

TEST_CASE("an npz file is an archive that the reader takes") {
  const std::vector<float> values = {1, 2, 3};
  const std::string bytes = write_npz({{"x", write_npy(values, {3})}, {"files", write_npy({"a.png"})}});
  const ZipArchive zip(bytes, "test");
  REQUIRE(zip.entries().size() == 2);
  CHECK(zip.entries()[0].name == "x.npy");
  const std::string x = zip.content(zip.entries()[0]);
  CHECK(parse_npy(x, "x", "test").shape == std::vector<int64_t>{3});
  CHECK(zip.content(zip.entries()[1]) == write_npy({"a.png"}));
  CHECK(bytes == write_npz({{"x", write_npy(values, {3})}, {"files", write_npy({"a.png"})}}));
  CHECK_THROWS_AS(write_npz({{"x", ""}, {"x", ""}}), Error);
}

}  // namespace aspis
