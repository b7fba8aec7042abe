#include "aspis/io/pickle.h"

#include <doctest/doctest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "aspis/base/error.h"
#include "aspis/base/file.h"
#include "aspis/io/zip.h"

using namespace aspis;
using Kind = PickleValue::Kind;

namespace {

PickleGlobal globals(std::string_view module, std::string_view name) {
  if (module == "collections" && name == "OrderedDict") return PickleGlobal::kMapping;
  const bool torch = (module == "torch" && (name == "FloatStorage" || name == "BFloat16Storage")) ||
                     (module == "torch._utils" && name == "_rebuild_tensor_v2");
  return torch ? PickleGlobal::kNode : PickleGlobal::kRefused;
}

std::string refusal(const std::string& bytes, const PickleLimits& limits = {}) {
  try {
    parse_pickle(bytes, "x.pkl", globals, limits);
  } catch (const Error& e) {
    CHECK(e.kind() == ErrorKind::kModel);
    CHECK(e.parts().where == "x.pkl");
    return e.what();
  }
  return "";
}

bool mentions(const std::string& message, const std::string& part) {
  return message.find(part) != std::string::npos;
}

std::string bytes_of(const char* text, size_t n) { return std::string(text, n); }
#define PICKLE(text) bytes_of(text, sizeof(text) - 1)

std::string torch_pickle() {
  const std::string bytes = read_file(std::filesystem::path(ASPIS_SOURCE_DIR) / "tests/data/state.pth");
  const ZipArchive zip(bytes, "state.pth");
  return std::string(zip.stored(*zip.find("state/data.pkl")));
}

const PickleValue* entry(const Pickle& p, const PickleValue& dict, const std::string& key) {
  for (size_t i = 0; i + 1 < dict.items.size(); i += 2) {
    if (p.values[dict.items[i]].text == key) return &p.values[dict.items[i + 1]];
  }
  return nullptr;
}

}  // namespace

TEST_CASE("the pickle of a checkpoint: nested mappings, numbers, tensors as calls that are not made") {
  const Pickle p = parse_pickle(torch_pickle(), "data.pkl", globals);
  const PickleValue& root = p.values[p.root];
  REQUIRE(root.kind == Kind::kDict);
  REQUIRE(root.items.size() == 8);
  CHECK(entry(p, root, "epoch")->integer == 3);
  CHECK(entry(p, root, "lr")->number == 0.5);
  CHECK(entry(p, root, "name")->text == "tiny");
  const PickleValue& model = *entry(p, root, "model");
  REQUIRE(model.kind == Kind::kDict);
  REQUIRE(model.items.size() == 6);
  const PickleValue& turned = *entry(p, model, "turned");
  REQUIRE(turned.kind == Kind::kCall);
  CHECK(p.values[turned.items[0]].text == "torch._utils._rebuild_tensor_v2");
  const auto& arguments = p.values[turned.items[1]].items;
  CHECK(p.values[arguments[0]].kind == Kind::kPersistent);
  const auto numbers = [&](uint32_t tuple) {
    std::vector<int64_t> v;
    for (const uint32_t i : p.values[tuple].items) v.push_back(p.values[i].integer);
    return v;
  };
  CHECK(numbers(arguments[2]) == std::vector<int64_t>{3, 2});
  CHECK(numbers(arguments[3]) == std::vector<int64_t>{1, 3});
}

TEST_CASE("integers of every width, and what follows the pickle is left") {
  const std::string bytes = PICKLE("\x80\x02(K\xffM\xff\xffJ\xfe\xff\xff\xff\x8a\x02\x00\xff\x8a\x00t.rest");
  const Pickle p = parse_pickle(bytes, "x", globals);
  CHECK(p.end == bytes.size() - 4);
  std::vector<int64_t> got;
  for (const uint32_t i : p.values[p.root].items) got.push_back(p.values[i].integer);
  CHECK(got == std::vector<int64_t>{255, 65535, -2, -256, 0});
  const Pickle big =
      parse_pickle(PICKLE("\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."), "x", globals);
  CHECK(big.values[big.root].kind == Kind::kBigInt);
  CHECK(big.values[big.root].text.size() == 10);
}

TEST_CASE("code in a pickle is refused by its name, in every way of naming it") {
  CHECK(mentions(refusal(PICKLE("\x80\x02"
                                "cos\nsystem\nX\x04\x00\x00\x00true\x85R.")),
                 "'os.system'"));
  CHECK(mentions(refusal(PICKLE("\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.")), "'posix.system'"));
  CHECK(mentions(refusal(PICKLE("\x80\x02"
                                "cbuiltins\neval\n.")),
                 "'builtins.eval'"));
  // Names that only begin like those that are let through.
  CHECK(mentions(refusal(PICKLE("\x80\x02"
                                "ctorch\nFloatStorage.from_file\n.")),
                 "'torch.FloatStorage.from_file'"));
  CHECK(mentions(refusal(PICKLE("\x80\x02(X\x04\x00\x00\x00trueios\nsystem\n.")), "INST"));
  CHECK(mentions(refusal(PICKLE("\x80\x04\x82\x01.")), "EXT"));
  CHECK(mentions(refusal(PICKLE("\x80\x02X\x01\x00\x00\x00"
                                "a)R.")),
                 "must call a global"));
  // The result of a call is no function either.
  CHECK(mentions(refusal(PICKLE("\x80\x02"
                                "ctorch._utils\n_rebuild_tensor_v2\n)R)R.")),
                 "must call a global"));
}

TEST_CASE("a pickle that does not hold together is refused") {
  CHECK(mentions(refusal(PICKLE("(lp0\n.")), "must begin with its protocol"));
  CHECK(mentions(refusal(PICKLE("\x80\x06N.")), "must be 2 to 5"));
  CHECK(mentions(refusal(PICKLE("\x80\x02.")), "must end with one value"));
  CHECK(mentions(refusal(PICKLE("\x80\x02NN.")), "must end with one value"));
  CHECK(mentions(refusal(PICKLE("\x80\x02\x85.")), "an empty stack"));
  CHECK(mentions(refusal(PICKLE("\x80\x02t.")), "no mark"));
  CHECK(mentions(refusal(PICKLE("\x80\x02(u.")), "an odd number"));
  CHECK(mentions(refusal(PICKLE("\x80\x02}(Nu.")), "an odd number"));
  CHECK(mentions(refusal(PICKLE("\x80\x02N(NNu.")), "must be set in a dict"));
  CHECK(mentions(refusal(PICKLE("\x80\x02h\x07.")), "number 7"));
  CHECK(mentions(refusal(PICKLE("\x80\x02N(0.")), "an empty stack"));  // below a mark
  CHECK(mentions(refusal(PICKLE("\x80\x02X\xff\xff\xff\xff"
                                "a.")),
                 "4294967295 bytes"));
  CHECK(mentions(refusal(PICKLE("\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xff"
                                "a.")),
                 "bytes before its end"));
  CHECK(refusal(PICKLE("\x80\x02]q\x00h\x00"
                       "a."))
            .empty());  // a list in itself is no harm
}

TEST_CASE("a pickle cannot ask for more than its limits") {
  const std::string many = PICKLE("\x80\x02(") + std::string(100, 'N') + "t.";
  CHECK(refusal(many).empty());
  CHECK(mentions(refusal(many, {.values = 50}), "at most 50 values"));
  CHECK(mentions(refusal(PICKLE("\x80\x02") + std::string(300, '('), {.values = 200}), "at most 200 values"));
  CHECK(mentions(refusal(PICKLE("\x80\x02N") + std::string(300, '2'), {.values = 200}), "at most 200 values"));
  CHECK(mentions(refusal(PICKLE("\x80\x02X\x04\x00\x00\x00true."), {.text_bytes = 3}), "3 bytes of text"));
}

TEST_CASE("a pickle cut or changed anywhere is refused or read, never more") {
  const std::string bytes = torch_pickle();
  for (size_t n = 0; n < bytes.size(); n++) {
    CAPTURE(n);
    CHECK_FALSE(refusal(std::string(bytes.data(), n)).empty());
  }
  for (size_t at = 0; at < bytes.size(); at++) {
    for (int value = 0; value < 256; value++) {
      std::string other = bytes;
      other[at] = static_cast<char>(value);
      const std::string message = refusal(other);
      CHECK(message.size() < 1000);
    }
  }
}
