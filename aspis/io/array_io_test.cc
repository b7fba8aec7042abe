#include "aspis/io/array_io.h"

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <filesystem>

#include "aspis/base/error.h"
#include "aspis/base/file.h"

using namespace aspis;

namespace {

const mx::array& find(const NamedArrays& arrays, const std::string& name) {
  for (const auto& [n, a] : arrays) {
    if (n == name) return a;
  }
  throw Error(ErrorKind::kUsage, {.where = "test", .required = "array " + name, .got = "none", .hint = {}});
}

bool same(const mx::array& a, const mx::array& b) {
  if (a.dtype() != b.dtype() || a.shape() != b.shape()) return false;
  return mx::array_equal(a, b, false, mx::Device::cpu).item<bool>();
}

}  // namespace

TEST_CASE("arrays of every stored type come back equal, and the bytes are stable") {
  NamedArrays arrays;
  for (const mx::Dtype dtype : {mx::bool_, mx::uint8, mx::int8, mx::int16, mx::uint16, mx::float16, mx::bfloat16,
                                mx::int32, mx::uint32, mx::float32, mx::float64, mx::int64, mx::uint64}) {
    const auto name = std::string(to_string(to_tensor_dtype(dtype)));
    CHECK(to_mlx(to_tensor_dtype(dtype)) == dtype);
    arrays.emplace_back(name, mx::astype(mx::reshape(mx::arange(0, 24, mx::Device::cpu), {2, 3, 4}), dtype,
                                         mx::Device::cpu));
    arrays.emplace_back(name + ".empty", mx::zeros({0, 4}, dtype, mx::Device::cpu));
    arrays.emplace_back(name + ".scalar", mx::ones({}, dtype, mx::Device::cpu));
  }
  const std::string bytes = dump_arrays(arrays, {{"made", "here"}});
  std::map<std::string, std::string> metadata;
  const NamedArrays back = load_arrays(bytes, "test", &metadata);
  CHECK(metadata.at("made") == "here");
  REQUIRE(back.size() == arrays.size());
  for (const auto& [name, a] : arrays) {
    CAPTURE(name);
    CHECK(same(find(back, name), a));
  }
  CHECK(dump_arrays(back, metadata) == bytes);
}

TEST_CASE("lazy, transposed, sliced and broadcast arrays are stored as their values") {
  const mx::array base = mx::reshape(mx::arange(0, 60, mx::float32), {6, 10});
  const NamedArrays arrays = {{"lazy", base * mx::array(2.0f)},
                              {"transposed", mx::transpose(base)},
                              {"sliced", mx::slice(base, {1, 2}, {6, 9}, {2, 3})},
                              {"broadcast", mx::broadcast_to(mx::array({1.0f, 2.0f}), {3, 2})}};
  const NamedArrays back = load_arrays(dump_arrays(arrays), "test");
  for (const auto& [name, a] : arrays) {
    CAPTURE(name);
    CHECK(same(find(back, name), a));
  }
}

TEST_CASE("loaded arrays own their memory") {
  mx::array kept = mx::array(0.0f);
  {
    std::string bytes = dump_arrays({{"a", mx::array({1.0f, 2.0f, 3.0f})}});
    kept = load_arrays(bytes, "test")[0].second;
    std::fill(bytes.begin(), bytes.end(), '\0');
  }
  CHECK(same(kept, mx::array({1.0f, 2.0f, 3.0f})));
}

TEST_CASE("a file of the format's own library gives the arrays it holds") {
  const std::string bytes = read_file(std::filesystem::path(ASPIS_SOURCE_DIR) / "tests/data/reference.safetensors");
  const NamedArrays arrays = load_arrays(bytes, "reference");
  CHECK(arrays.size() == 13);
  for (const auto& [name, a] : arrays) {
    const mx::array want = mx::astype(mx::reshape(mx::arange(0, 6), {2, 3}), a.dtype(), mx::Device::cpu);
    CAPTURE(name);
    CHECK(same(a, want));
  }
}

TEST_CASE("damage and types that cannot be stored are errors") {
  CHECK_THROWS_AS(load_arrays("not a file", "x"), Error);
  CHECK_THROWS_AS(dump_arrays({{"c", mx::zeros({2}, mx::complex64)}}), Error);
  CHECK_THROWS_AS(dump_arrays({{"a", mx::zeros({2})}, {"a", mx::zeros({2})}}), Error);
}
