#include "aspis/io/torch_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <functional>
#include <optional>
#include <utility>

#include "aspis/io/checked.h"
#include "aspis/io/names.h"
#include "aspis/io/pickle.h"

namespace aspis {
namespace {

using Kind = PickleValue::Kind;

// The pickle of torch's magic number, 0x1950a86a20f9469cfc6c.
constexpr std::string_view kMagic(
    "\x80\x02\x8a\x0al\xfc\x9c"
    "F\xf9 j\xa8P\x19.",
    15);
constexpr int64_t kLegacyProtocol = 1001;
constexpr int64_t kNewestZip = 10;  // kMaxSupportedFileFormatVersion of PyTorch
constexpr int kMaxDepth = 64;
constexpr int64_t kMaxVisits = 1000000;

// Types of storages. Complex and quantised ones are not read.
constexpr std::array<std::pair<std::string_view, TensorDtype>, 10> kStorages{
    {{"torch.FloatStorage", TensorDtype::kF32},
     {"torch.HalfStorage", TensorDtype::kF16},
     {"torch.BFloat16Storage", TensorDtype::kBF16},
     {"torch.DoubleStorage", TensorDtype::kF64},
     {"torch.LongStorage", TensorDtype::kI64},
     {"torch.IntStorage", TensorDtype::kI32},
     {"torch.ShortStorage", TensorDtype::kI16},
     {"torch.CharStorage", TensorDtype::kI8},
     {"torch.ByteStorage", TensorDtype::kU8},
     {"torch.BoolStorage", TensorDtype::kBool}}};

constexpr std::array<std::string_view, 4> kRebuilders{
    "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor", "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state"};

// Plain data that training programs save beside the weights; they become nodes
// that nothing looks into.
constexpr std::array<std::string_view, 15> kBystanders{"argparse.Namespace",
                                                       "collections.Counter",
                                                       "collections.defaultdict",
                                                       "builtins.dict",
                                                       "builtins.list",
                                                       "builtins.set",
                                                       "__builtin__.set",
                                                       "builtins.complex",
                                                       "torch.Size",
                                                       "torch.device",
                                                       "numpy.dtype",
                                                       "numpy.core.multiarray.scalar",
                                                       "numpy._core.multiarray.scalar",
                                                       "_codecs.encode",
                                                       "yacs.config.CfgNode"};

PickleGlobal globals(std::string_view module, std::string_view name) {
  if (module == "collections" && name == "OrderedDict") return PickleGlobal::kMapping;
  const std::string full = std::string(module) + "." + std::string(name);
  const bool known =
      std::any_of(kStorages.begin(), kStorages.end(), [&](const auto& s) { return s.first == full; }) ||
      std::find(kRebuilders.begin(), kRebuilders.end(), full) != kRebuilders.end() ||
      std::find(kBystanders.begin(), kBystanders.end(), full) != kBystanders.end();
  return known ? PickleGlobal::kNode : PickleGlobal::kRefused;
}

struct Storage {
  std::string_view bytes;
  TensorDtype dtype;
};

/// ('storage', type, key, location, elements[, view]) as the pickle names it.
struct StorageId {
  TensorDtype dtype;
  std::string key;
  int64_t elements;
  std::optional<std::array<int64_t, 2>> view;  // offset and length, of the old format
};

/// Walks what the pickle holds and collects its tensors.
class Walk {
 public:
  using Find = std::function<std::string_view(const StorageId& id)>;
  Walk(const Pickle& pickle, const ModelFault& fault, Find find)
      : p_(pickle), fault_(fault), find_(std::move(find)) {}

  TorchFile run() {
    const PickleValue& root = p_.values[p_.root];
    if (root.kind != Kind::kDict) {
      fault_("a checkpoint must be a dict of tensors", is_tensor(root) ? "one tensor" : "something else",
             "torch.save(model.state_dict(), file)");
    }
    dict(root, "", 0);
    refuse_partial_overlap(result_.tensors, fault_);
    return std::move(result_);
  }

 private:
  const PickleValue& value(uint32_t i) const { return p_.values[i]; }
  bool calls(const PickleValue& v, std::string_view name) const {
    return v.kind == Kind::kCall && value(v.items[0]).text == name;
  }
  bool is_tensor(const PickleValue& v) const {
    return std::any_of(kRebuilders.begin(), kRebuilders.end(), [&](std::string_view r) { return calls(v, r); });
  }

  void dict(const PickleValue& d, const std::string& group, int depth) {
    if (depth > kMaxDepth) fault_(fmt::format("dicts must lie at most {} deep", kMaxDepth), "more");
    std::map<std::string_view, bool> seen;
    for (size_t i = 0; i + 1 < d.items.size(); i += 2) {
      // A dict may stand in many places; the walk ends all the same.
      if (++visits_ > kMaxVisits)
        fault_(fmt::format("a checkpoint must hold at most {} values", kMaxVisits), "more");
      const PickleValue &key = value(d.items[i]), &item = value(d.items[i + 1]);
      const std::string name = key.kind == Kind::kInt ? std::to_string(key.integer) : key.text;
      if (key.kind != Kind::kInt && key.kind != Kind::kText) continue;
      if (key.kind == Kind::kText && !seen.emplace(key.text, true).second) {
        fault_("a dict must not hold a key twice", shown_name(name));
      }
      if (item.kind == Kind::kDict) {
        require_plain_name(name, fault_);
        dict(item, group.empty() ? name : group + "." + name, depth + 1);
      } else if (is_tensor(item)) {
        tensor(item, group, name, 0);
      } else if (group.empty()) {
        fact(name, item);
      }
    }
  }

  void fact(const std::string& name, const PickleValue& v) {
    if (result_.facts.size() >= 100 || name.size() > 100) return;
    if (v.kind == Kind::kText && v.text.size() <= 200) result_.facts[name] = v.text;
    if (v.kind == Kind::kInt) result_.facts[name] = std::to_string(v.integer);
    if (v.kind == Kind::kFloat) result_.facts[name] = fmt::format("{}", v.number);
  }

  void tensor(const PickleValue& call, const std::string& group, const std::string& name, int depth) {
    const auto& arguments = value(call.items[1]).items;
    const bool parameter = calls(call, kRebuilders[2]) || calls(call, kRebuilders[3]);
    if (parameter) {
      if (arguments.empty() || !is_tensor(value(arguments[0])) || depth > 4) bad(name, "another parameter");
      tensor(value(arguments[0]), group, name, depth + 1);
      return;
    }
    if (arguments.size() < 4) bad(name, fmt::format("{} arguments", arguments.size()));
    const StorageId id = storage_id(value(arguments[0]), name);
    const int64_t offset = integer(value(arguments[1]), name);
    auto shape = integers(value(arguments[2]), name), strides = integers(value(arguments[3]), name);
    std::string_view storage = find_(id);
    if (id.view) {
      // A view of another storage: all in elements.
      int64_t end = 0;
      const auto [first, length] = *id.view;
      const int64_t held = static_cast<int64_t>(storage.size()) / size_of(id.dtype);
      if (first < 0 || length < 0 || !checked_add(first, length, &end) || end > held) {
        bad(name, "a view outside of its storage");
      }
      storage = storage.substr(static_cast<size_t>(first * size_of(id.dtype)),
                               static_cast<size_t>(length * size_of(id.dtype)));
    }
    result_.tensors.push_back(
        cut_tensor(group, name, id.dtype, std::move(shape), std::move(strides), offset, storage, fault_));
  }

  [[noreturn]] void bad(const std::string& name, std::string got) const {
    fault_(fmt::format("tensor {} must be made of a storage, an offset, a shape and strides", shown_name(name)),
           std::move(got));
  }
  int64_t integer(const PickleValue& v, const std::string& name) const {
    if (v.kind != Kind::kInt) bad(name, v.kind == Kind::kBigInt ? "a number of more than 64 bits" : "no number");
    return v.integer;
  }
  std::vector<int64_t> integers(const PickleValue& v, const std::string& name) const {
    // torch.Size is called with a tuple.
    if (calls(v, "torch.Size") && value(v.items[1]).items.size() == 1) {
      return integers(value(value(v.items[1]).items[0]), name);
    }
    if (v.kind != Kind::kTuple && v.kind != Kind::kList) bad(name, "no tuple");
    std::vector<int64_t> list;
    for (const uint32_t i : v.items) {
      if (list.size() > 64) bad(name, "more than 64 dimensions");
      list.push_back(integer(value(i), name));
    }
    return list;
  }
  StorageId storage_id(const PickleValue& v, const std::string& name) const {
    if (v.kind != Kind::kPersistent) bad(name, "no storage");
    const PickleValue& t = value(v.items[0]);
    if (t.kind != Kind::kTuple || t.items.size() < 5 || t.items.size() > 6 ||
        value(t.items[0]).text != "storage" || value(t.items[1]).kind != Kind::kGlobal ||
        value(t.items[2]).kind != Kind::kText) {
      bad(name, "another kind of storage");
    }
    const auto type = std::find_if(kStorages.begin(), kStorages.end(),
                                   [&](const auto& s) { return s.first == value(t.items[1]).text; });
    if (type == kStorages.end()) bad(name, "a storage of type " + shown_name(value(t.items[1]).text));
    StorageId id{type->second, value(t.items[2]).text, integer(value(t.items[4]), name), {}};
    if (t.items.size() == 6 && value(t.items[5]).kind == Kind::kTuple) {
      const auto& view = value(t.items[5]).items;
      if (view.size() != 3) bad(name, "a view of another kind");
      id.view = std::array{integer(value(view[1]), name), integer(value(view[2]), name)};
    }
    return id;
  }

  const Pickle& p_;
  const ModelFault& fault_;
  Find find_;
  TorchFile result_;
  int64_t visits_ = 0;
};

void require_length(const StorageId& id, size_t bytes, const ModelFault& fault) {
  int64_t want = 0;
  if (id.elements < 0 || !checked_mul(id.elements, size_of(id.dtype), &want) ||
      want != static_cast<int64_t>(bytes)) {
    fault(fmt::format("storage {} must have the size that the pickle says, {} elements of {}", shown_name(id.key),
                      id.elements, to_string(id.dtype)),
          fmt::format("{} bytes", bytes));
  }
}

}  // namespace

TorchFile read_torch_zip(const ZipArchive& zip, std::string_view where) {
  const ModelFault fault(where, "get the file again; it is damaged or no checkpoint of torch.save");
  // All entries lie in one folder, whose name is that of the file as it was saved.
  constexpr std::string_view kData = "data.pkl";
  std::string folder;
  const ZipEntry* pickle = nullptr;
  for (const ZipEntry& e : zip.entries()) {
    const size_t slash = e.name.find('/');
    if (e.name != kData && (slash == std::string::npos || std::string_view(e.name).substr(slash + 1) != kData))
      continue;
    if (pickle) fault("a checkpoint must hold one data.pkl", "two");
    pickle = &e;
    folder = e.name.substr(0, e.name.size() - kData.size());
  }
  if (!pickle) fault("a checkpoint must hold data.pkl", "a zip archive without it");
  if (zip.find(folder + "constants.pkl")) {
    fault("a checkpoint must hold tensors", "a TorchScript program", "save its state_dict() with torch.save");
  }
  if (const ZipEntry* e = zip.find(folder + "byteorder"); e && zip.content(*e) != "little") {
    fault("a checkpoint must be little-endian", shown_name(zip.content(*e)), "save it again on a common machine");
  }
  const ZipEntry* entry = zip.find(folder + "version");
  if (!entry) entry = zip.find(folder + ".data/version");
  const std::string version = entry ? zip.content(*entry) : "";
  const std::string number = version.substr(0, version.find_last_not_of(" \n") + 1);
  const bool digits =
      !number.empty() && number.size() < 4 && number.find_first_not_of("0123456789") == std::string::npos;
  if (!digits || std::stoi(number) > kNewestZip) {
    fault(fmt::format("the format version of torch.save must be at most {}", kNewestZip),
          entry ? shown_name(number) : "none", digits ? "a newer Aspis, or safetensors" : "");
  }
  const Pickle p = parse_pickle(zip.stored(*pickle), fmt::format("{} {}", where, kData), globals);
  std::map<std::string, std::string_view> storages;  // the CRC of each is verified once
  return Walk(p, fault,
              [&](const StorageId& id) {
                const auto at = storages.find(id.key);
                const bool known = at != storages.end();
                const ZipEntry* e = known ? nullptr : zip.find(folder + "data/" + id.key);
                if (!known && !e)
                  fault("a checkpoint must hold all its storages", "none for " + shown_name(id.key));
                const std::string_view bytes = known ? at->second : zip.stored(*e);
                if (!known) storages.emplace(id.key, bytes);
                require_length(id, bytes.size(), fault);
                return bytes;
              })
      .run();
}

bool looks_like_torch_legacy(std::string_view bytes) { return bytes.substr(0, kMagic.size()) == kMagic; }

TorchFile read_torch_legacy(std::string_view bytes, std::string_view where) {
  const ModelFault fault(where, "get the file again; it is damaged or no checkpoint of torch.save");
  if (!looks_like_torch_legacy(bytes))
    fault("the file must begin with the magic number of torch.save", "something else");
  size_t at = kMagic.size();
  const auto next = [&](std::string_view what) {
    Pickle p = parse_pickle(bytes.substr(at), fmt::format("{} {}", where, what), globals);
    at += p.end;
    return p;
  };
  const Pickle version = next("(version)");
  const PickleValue& v = version.values[version.root];
  if (v.kind != Kind::kInt || v.integer != kLegacyProtocol) {
    fault(fmt::format("the version must be {}", kLegacyProtocol),
          v.kind == Kind::kInt ? std::to_string(v.integer) : "no number");
  }
  const Pickle machine = next("(machine)");
  const PickleValue& m = machine.values[machine.root];
  for (size_t i = 0; m.kind == Kind::kDict && i + 1 < m.items.size(); i += 2) {
    const PickleValue &key = machine.values[m.items[i]], &value = machine.values[m.items[i + 1]];
    if (key.text == "little_endian" && value.integer != 1) {
      fault("a checkpoint must be little-endian", "big-endian", "save it again on a common machine");
    }
  }
  const Pickle content = next("(content)");
  const Pickle keys = next("(keys)");
  const PickleValue& list = keys.values[keys.root];
  if (list.kind != Kind::kList) fault("the keys of the storages must be a list", "something else");

  // The lengths alone do not give the sizes: the types stand in the content.
  std::map<std::string, TensorDtype> types;
  for (const PickleValue& value : content.values) {
    if (value.kind != Kind::kPersistent) continue;
    const PickleValue& id = content.values[value.items[0]];
    if (id.kind != Kind::kTuple || id.items.size() < 3) continue;
    for (const auto& [name, dtype] : kStorages) {
      if (content.values[id.items[1]].text != name) continue;
      const auto [known, fresh] = types.emplace(content.values[id.items[2]].text, dtype);
      if (!fresh && known->second != dtype)
        fault("a storage must have one type", shown_name(known->first) + " has two");
    }
  }
  Cursor c(bytes, fault, at);
  std::map<std::string, std::string_view> storages;
  for (const uint32_t i : list.items) {
    const std::string& key = keys.values[i].text;
    const auto type = types.find(key);
    if (keys.values[i].kind != Kind::kText || type == types.end()) {
      fault("each storage must be used by a tensor", shown_name(key));
    }
    const uint64_t elements = c.u64();
    if (elements > c.left() / static_cast<uint64_t>(size_of(type->second))) {
      fault(fmt::format("storage {} must lie in the file", shown_name(key)), fmt::format("{} elements", elements));
    }
    const std::string_view data = c.take(elements * static_cast<uint64_t>(size_of(type->second)));
    if (!storages.emplace(key, data).second) fault("each storage must be stored once", shown_name(key) + " twice");
  }
  if (c.left() != 0) fault("the file must end with its last storage", fmt::format("{} more bytes", c.left()));
  return Walk(content, fault,
              [&](const StorageId& id) {
                const auto found = storages.find(id.key);
                if (found == storages.end())
                  fault("a checkpoint must hold all its storages", "none for " + shown_name(id.key));
                require_length(id, found->second.size(), fault);
                return found->second;
              })
      .run();
}

}  // namespace aspis
