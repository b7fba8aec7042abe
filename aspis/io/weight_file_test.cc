#include "aspis/io/weight_file.h"

#include <doctest/doctest.h>

#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "aspis/base/error.h"
#include "aspis/base/file.h"
#include "aspis/io/test_archives.h"

using namespace aspis;
namespace fs = std::filesystem;

namespace {

fs::path data(const char* name) { return fs::path(ASPIS_SOURCE_DIR) / "tests/data" / name; }

std::string refusal(const std::string& bytes) {
  try {
    WeightFile::parse(bytes, "x.pth");
  } catch (const Error& e) {
    CHECK(e.kind() == ErrorKind::kModel);
    CHECK(e.parts().where.find("x.pth") == 0);
    return e.what();
  }
  return "";
}

bool mentions(const std::string& message, const std::string& part) {
  const bool found = message.find(part) != std::string::npos;
  if (!found) MESSAGE(message);
  return found;
}

const WeightTensor& find(const WeightFile& f, const std::string& group, const std::string& name) {
  for (const WeightTensor& t : f.tensors()) {
    if (t.group == group && t.name == name) return t;
  }
  FAIL(group << " " << name);
  return f.tensors()[0];
}

std::vector<float> floats(const WeightFile& f, const std::string& group, const std::string& name) {
  std::string buffer;
  const TensorView v = find(f, group, name).packed(buffer);
  REQUIRE(v.dtype == TensorDtype::kF32);
  std::vector<float> values(v.bytes.size() / 4);
  std::memcpy(values.data(), v.bytes.data(), v.bytes.size());
  return values;
}

// Everything in a file, to compare two readings.
std::string content(const WeightFile& f) {
  std::string all;
  for (const WeightTensor& t : f.tensors()) {
    std::string buffer;
    const TensorView v = t.packed(buffer);
    all += t.group + " " + t.name + " " + std::string(to_string(t.dtype));
    for (const int64_t d : t.shape) all += " " + std::to_string(d);
    all += "\n" + std::string(v.bytes) + "\n";
  }
  return all;
}

fs::path scratch() {
  fs::path folder = fs::path(ASPIS_BINARY_DIR) / "weight_file_test";
  fs::remove_all(folder);
  fs::create_directories(folder);
  return folder;
}

std::string one_tensor(const std::string& name, float value) {
  const std::string bytes(reinterpret_cast<const char*>(&value), 4);
  return write_safetensors({{name, TensorDtype::kF32, {1}, bytes}});
}

}  // namespace

TEST_CASE("a checkpoint of torch.save: views, tied tensors, parameters, a running copy, bystanders") {
  for (const char* name : {"views.pth", "legacy.pth"}) {
    CAPTURE(name);
    const WeightFile f = WeightFile::open(data(name));
    CHECK(f.kind() == (std::string(name) == "views.pth" ? WeightKind::kTorchZip : WeightKind::kTorchLegacy));
    CHECK(f.groups() == std::vector<std::string>{"model", "model_ema", "optimizer.state.0"});
    CHECK(f.facts().at("epoch") == "300");
    CHECK(find(f, "model", "columns").shape == std::vector<int64_t>{4, 2});
    CHECK_FALSE(find(f, "model", "columns").contiguous());
    CHECK(floats(f, "model", "columns") == std::vector<float>{3, 4, 9, 10, 15, 16, 21, 22});
    CHECK(find(f, "model", "last").shape == std::vector<int64_t>{2, 1, 2});
    CHECK(floats(f, "model", "last") == std::vector<float>{4, 6, 16, 18});
    const auto conv = floats(f, "model", "conv");
    REQUIRE(conv.size() == 48);
    for (size_t i = 0; i < 48; i++) CHECK(conv[i] == static_cast<float>(i));
    CHECK(floats(f, "model", "head") == std::vector<float>{0, 1, 2, 3});
    CHECK(find(f, "model", "head").bytes.data() == find(f, "model", "embedding").bytes.data());
    CHECK(find(f, "model", "flags").dtype == TensorDtype::kBool);
    CHECK(find(f, "model", "flags").bytes == std::string_view("\1\0\1", 3));
    CHECK(find(f, "model", "steps").shape.empty());
    CHECK(find(f, "model", "steps").bytes == std::string_view("\7\0\0\0\0\0\0\0", 8));
    CHECK(find(f, "model", "none").shape == std::vector<int64_t>{0, 3});
    CHECK(find(f, "model", "none").bytes.empty());
    CHECK(find(f, "model", "double").dtype == TensorDtype::kF64);
    CHECK(floats(f, "model_ema", "embedding") == std::vector<float>{1, 2, 3, 4});
  }
}

TEST_CASE("npz: stored and deflated, either order of axes, bfloat16 as MLX writes it") {
  const WeightFile f = WeightFile::open(data("orders.npz"));
  CHECK(f.kind() == WeightKind::kNpz);
  CHECK(find(f, "", "blocks.0.bf16").dtype == TensorDtype::kBF16);
  CHECK(find(f, "", "blocks.0.bf16").bytes == std::string_view("\x80\x3f\x00\xc0", 4));
  CHECK(find(f, "", "rows").dtype == TensorDtype::kF16);
  CHECK_FALSE(find(f, "", "columns").contiguous());
  CHECK(floats(f, "", "columns") == std::vector<float>{0, 1, 2, 3, 4, 5});
  const WeightFile packed = WeightFile::open(data("arrays.npz"));
  CHECK(find(packed, "", "ramp").shape == std::vector<int64_t>{400});
  CHECK(find(packed, "", "ramp").bytes.substr(4, 4) == std::string_view("\1\0\0\0", 4));
  CHECK(find(packed, "", "one").dtype == TensorDtype::kF64);
  CHECK(find(packed, "", "one").shape.empty());
}

TEST_CASE("an npy header is read by its grammar and its size") {
  const auto npz = [](const std::string& header, size_t bytes, const char* version = "\1") {
    const std::string length = test::little(header.size(), *version == 1 ? 2 : 4);
    return test::zip_of(
        {{"a.npy", "\x93NUMPY" + std::string(version, 1) + '\0' + length + header + std::string(bytes, '\0')}});
  };
  CHECK(refusal(npz("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", 8)).empty());
  CHECK(refusal(npz("{\"shape\":(2L,3L),'fortran_order':True,'descr':'|u1',}  \n", 6)).empty());
  CHECK(refusal(npz("{'descr': '<f8', 'fortran_order': False, 'shape': ()}", 8, "\3")).empty());
  const auto wrong = [&](const std::string& header, size_t bytes, const char* part) {
    CHECK(mentions(refusal(npz(header, bytes)), part));
  };
  wrong("{'descr': '|O', 'fortran_order': False, 'shape': (2,)}", 16, "Python objects");
  wrong("{'descr': '>f4', 'fortran_order': False, 'shape': (2,)}", 8, "little-endian");
  wrong("{'descr': '<c8', 'fortran_order': False, 'shape': (2,)}", 16, "'<c8'");
  wrong("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,)}", 8, "a record");
  wrong("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", 7, "7 bytes");
  wrong("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", 8, "8 bytes");
  wrong("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", 8, "non-negative integers");
  wrong("{'descr': '<f4', 'fortran_order': False, 'shape': (65536, 65536, 65536, 65536)}", 0,
        "sizes that overflow");
  wrong("{'descr': '<f4', 'fortran_order': True, 'shape': (65536, 65536, 65536, 65536)}", 0,
        "sizes that overflow");
  wrong("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,)}", 0, "63 bits");
  wrong("{'descr': '<f4', 'shape': (2,)}", 8, "less");
  wrong("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'more': 1}", 8, "'more'");
  wrong("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", 8, "'descr'");
  wrong("{'descr': '<f4', 'fortran_order': maybe, 'shape': (2,)}", 8, "True or False");
  wrong("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)} os.system()", 8, "nothing after its dict");
  CHECK(mentions(refusal(npz("{}", 0, "\4")), "must be 1 to 3"));
}

TEST_CASE("shards: every tensor of the index in the file it names, and nothing else") {
  const fs::path folder = scratch();
  write_file_atomic(folder / "a.safetensors", one_tensor("x", 1), false);
  write_file_atomic(folder / "b.safetensors", one_tensor("y", 2), false);
  const fs::path index = folder / "model.safetensors.index.json";
  const auto with = [&](const std::string& map) -> std::string {
    write_file_atomic(index, R"({"metadata": {"total_size": 8}, "weight_map": {)" + map + "}}", false);
    try {
      return content(WeightFile::open(index));
    } catch (const Error& e) {
      CHECK(e.kind() == ErrorKind::kModel);
      return e.what();
    }
  };
  CHECK(with(R"("y": "b.safetensors", "x": "a.safetensors")") ==
        std::string(" x F32 1\n\0\0\x80\x3f\n y F32 1\n\0\0\0\x40\n", 28));
  CHECK(mentions(with(R"("x": "a.safetensors", "y": "a.safetensors")"), "shard a.safetensors must hold 'y'"));
  CHECK(mentions(with(R"("x": "b.safetensors")"), "not 'y' of b.safetensors"));
  CHECK(mentions(with(R"("x": "../a.safetensors")"), "beside the index"));
  CHECK(mentions(with(R"("x": "/etc/passwd")"), "beside the index"));
  CHECK(mentions(with(R"("x": 3)"), "a file for each tensor"));
  CHECK(mentions(with(R"("x": "c.safetensors")"), "c.safetensors"));
  write_file_atomic(index, "{\"a\": 1}", false);
  CHECK_THROWS_WITH_AS(WeightFile::open(index), doctest::Contains("without a weight_map"), Error);
  fs::remove_all(folder);
}

TEST_CASE("a file that is no weights is told by what it is") {
  CHECK(mentions(refusal(""), "an empty file"));
  CHECK(mentions(refusal("version https://git-lfs.github.com/spec/v1\noid sha256:0"), "git-lfs"));
  CHECK(mentions(refusal("<!DOCTYPE html><html>"), "a web page"));
  CHECK(mentions(refusal("GGUF\3"), "GGUF"));
  CHECK(mentions(refusal("\x89HDF\r\n"), "HDF5"));
  CHECK(mentions(refusal("\x93NUMPY\1"), "without a name"));
  CHECK(mentions(refusal("\x1f\x8b\x08"), "gzip"));
  CHECK(mentions(refusal(std::string(257, 'a') + "ustar  "), "tar archive"));
  CHECK(mentions(refusal("\x80\x04K\1."), "torch.save has not written"));
  CHECK(mentions(refusal("hello"), "none of these"));
  CHECK(mentions(refusal(test::zip_of({{"a.txt", "hello"}})), "data.pkl"));
  CHECK(mentions(refusal(test::zip_of({{"x/data.pkl", ""}, {"x/constants.pkl", ""}, {"x/version", "3"}})),
                 "TorchScript"));
  CHECK(mentions(refusal(test::zip_of({{"x/data.pkl", ""}, {"y/data.pkl", ""}})), "two"));
}

TEST_CASE("code, overlap, overflow and other formats in a checkpoint are refused with the right words") {
  using test::dict, test::pickle, test::tensor, test::torch_zip;
  const std::string six(24, '\0');
  const auto with = [&](const std::string& item) {
    return refusal(torch_zip(pickle(dict({{"w", item}})), {six}));
  };
  CHECK(with(tensor("0", 6, 0, {2, 3}, {3, 1})).empty());
  CHECK(with(tensor("0", 6, 5, {1, 1}, {3, 1})).empty());
  CHECK(with(tensor("0", 6, 6, {0, 9}, {3, 1})).empty());
  CHECK(mentions(with(tensor("0", 6, 1, {2, 3}, {3, 1})), "'w' of shape {2, 3} must lie in its storage of 6"));
  CHECK(mentions(with(tensor("0", 6, -1, {1}, {1})), "sizes that overflow"));
  CHECK(mentions(with(tensor("0", 6, INT64_MAX, {1}, {1})), "must lie in its storage"));
  CHECK(mentions(with(tensor("0", 6, 0, {65536, 65536, 65536, 65536}, {0, 0, 0, 0})), "sizes that overflow"));
  CHECK(mentions(with(tensor("0", 6, 0, {int64_t{1} << 40}, {0})), "must be in 0..2147483647"));
  CHECK(mentions(with(tensor("0", 6, 0, {-1}, {1})), "must be in 0.."));
  CHECK(mentions(with(tensor("0", 6, 0, {2, 2}, {INT64_MAX, INT64_MAX})), "sizes that overflow"));
  CHECK(mentions(with(tensor("0", 6, 5, {3}, {-1})), "must not run backwards"));
  // One element spread over many would let a small file ask for much memory.
  CHECK(mentions(with(tensor("0", 6, 0, {1000000}, {0})), "1000000 elements, the last of them number 0"));
  CHECK(mentions(with(tensor("0", 6, 0, {2}, {1, 1})), "as many strides as dimensions"));
  CHECK(mentions(with(tensor("0", 6, 0, std::vector<int64_t>(9, 1), std::vector<int64_t>(9, 1))),
                 "at most 8 dimensions"));
  CHECK(mentions(with(tensor("0", 7, 0, {1}, {1})), "'0' must have the size that the pickle says, 7 elements"));
  CHECK(mentions(with(tensor("0", int64_t{1} << 62, 0, {1}, {1})), "the size that the pickle says"));
  CHECK(mentions(with(tensor("../1", 6, 0, {1}, {1})), "none for '../1'"));
  CHECK(mentions(with(tensor("0", 6, 0, {1}, {1}, "ComplexFloatStorage")), "'torch.ComplexFloatStorage'"));
  CHECK(mentions(with(test::global("torch._utils", "_rebuild_tensor_v2") + ")R"), "0 arguments"));
  CHECK(mentions(with(test::global("os", "system") + test::text("true") + "\x85R"), "'os.system'"));
  CHECK(mentions(with(test::global("torch.hub", "load") + ")R"), "'torch.hub.load'"));
  CHECK(mentions(refusal(torch_zip(pickle(test::global("torch.nn.modules.linear", "Linear") + ")\x81"))),
                 "'torch.nn.modules.linear.Linear'"));

  const auto two = [&](const std::string& a, const std::string& b) {
    return refusal(torch_zip(pickle(dict({{"a", a}, {"b", b}})), {six}));
  };
  CHECK(two(tensor("0", 6, 0, {3}, {1}), tensor("0", 6, 3, {3}, {1})).empty());
  CHECK(two(tensor("0", 6, 0, {6}, {1}), tensor("0", 6, 0, {2, 3}, {3, 1})).empty());
  CHECK(mentions(two(tensor("0", 6, 0, {4}, {1}), tensor("0", 6, 3, {3}, {1})), "'a' and 'b'"));
  CHECK(mentions(two(tensor("0", 6, 0, {6}, {1}), tensor("0", 6, 0, {3}, {1})), "must not share a part"));

  const std::string good = pickle(dict({{"w", tensor("0", 6, 0, {6}, {1})}}));
  CHECK(refusal(torch_zip(good, {six}, "10\n")).empty());
  CHECK(mentions(refusal(torch_zip(good, {six}, "11\n")), "at most 10; got '11'. Try: a newer Aspis"));
  CHECK(mentions(refusal(torch_zip(good, {six}, "x")), "'x'"));
  CHECK(mentions(refusal(torch_zip(good, {})), "none for '0'"));
  CHECK(mentions(refusal(torch_zip(pickle(tensor("0", 6, 0, {6}, {1})), {six})), "got one tensor"));
  CHECK(mentions(refusal(torch_zip(pickle("]"), {})), "must be a dict of tensors"));
  CHECK(mentions(refusal(torch_zip(pickle(dict({{"w", "N"}, {"w", "N"}})), {})), "a key twice"));
  CHECK(mentions(refusal(torch_zip(pickle(dict({{"w\n", tensor("0", 6, 0, {6}, {1})}})), {six})),
                 "control characters"));

  // A dict that holds itself, and one that holds the next one twice, 40 deep: 2^40 ways down.
  CHECK(mentions(refusal(torch_zip("\x80\x02}q\1" + test::text("a") + "h\1s.")), "at most 64 deep"));
  std::string deep = "}";
  for (int i = 0; i < 40; i++) deep += "q\0010}" + test::text("a") + "h\1s" + test::text("b") + "h\1s";
  CHECK(mentions(refusal(torch_zip(pickle(deep))), "at most 1000000 values"));
}

TEST_CASE("a weight file cut anywhere is refused, and with a byte changed it is refused or read") {
  for (const char* name : {"views.pth", "legacy.pth", "orders.npz"}) {
    CAPTURE(name);
    const std::string bytes = read_file(data(name));
    const std::string whole = content(WeightFile::parse(bytes, "x"));
    for (size_t n = 0; n < bytes.size(); n++) {
      CAPTURE(n);
      CHECK_FALSE(refusal(std::string(bytes.data(), n)).empty());
    }
    int changed = 0;
    for (size_t at = 0; at < bytes.size(); at++) {
      for (const int mask : {0x01, 0x80, 0xff}) {
        std::string other = bytes;
        other[at] = static_cast<char>(other[at] ^ mask);
        try {
          changed += content(WeightFile::parse(other, "x")) != whole;
        } catch (const Error& e) {
          CHECK(std::string_view(e.what()).size() < 1000);
        }
      }
    }
    // The zip formats carry checksums; the old format has none.
    CHECK((changed == 0) == (std::string(name) != "legacy.pth"));
  }
}
