#include "aspis/io/weight_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "aspis/base/file.h"
#include "aspis/io/json_strict.h"
#include "aspis/io/names.h"
#include "aspis/io/npy.h"
#include "aspis/io/torch_file.h"
#include "aspis/io/zip.h"

namespace aspis {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kWanted =
    "weights must be safetensors (or their index), a PyTorch checkpoint or an npz archive";

bool starts_with(std::string_view bytes, std::string_view magic) { return bytes.substr(0, magic.size()) == magic; }

bool looks_like_safetensors(std::string_view bytes) {
  // The length of the header is below 2^32, and the header an object.
  return bytes.size() > 8 && bytes.substr(4, 4) == std::string_view("\0\0\0\0", 4) && bytes[8] == '{';
}

/// What a file is that is none of ours, with what to do.
std::pair<std::string, std::string> other_kind(std::string_view bytes) {
  constexpr size_t kTarMagic = 257;
  if (bytes.empty()) return {"an empty file", "get the file again"};
  if (starts_with(bytes, "version https://git-lfs")) {
    return {"a pointer of git-lfs", "hf download or git lfs pull, which fetch the file itself"};
  }
  if (starts_with(bytes, "<") || starts_with(bytes, "\n<")) {
    return {"a web page", "hf download; the page of a file is not the file"};
  }
  if (starts_with(bytes, "GGUF")) return {"a GGUF file", "the safetensors of the same model"};
  if (starts_with(bytes, "\x89HDF")) return {"an HDF5 file", "the safetensors or PyTorch form of the same model"};
  if (starts_with(bytes, "\x93NUMPY")) return {"one array of numpy, without a name", "numpy.savez"};
  if (starts_with(bytes, "\x1f\x8b")) return {"a file packed with gzip", "gunzip"};
  if (bytes.size() > kTarMagic + 5 && bytes.substr(kTarMagic, 5) == "ustar") {
    return {"a tar archive", "tar xf, and the file in it"};
  }
  if (starts_with(bytes, "\x80")) {
    return {"a pickle that torch.save has not written", "torch.save(model.state_dict(), file), or safetensors"};
  }
  return {"none of these", "get the file again"};
}

}  // namespace

std::string_view to_string(WeightKind kind) {
  switch (kind) {
    case WeightKind::kSafetensors:
      return "safetensors";
    case WeightKind::kShards:
      return "safetensors in shards";
    case WeightKind::kTorchZip:
      return "PyTorch checkpoint";
    case WeightKind::kTorchLegacy:
      return "PyTorch checkpoint (format of before 1.6)";
    case WeightKind::kNpz:
      return "npz archive";
  }
  return "";
}

WeightFile WeightFile::parse(std::string bytes, std::string_view where) {
  WeightFile f;
  f.where_ = where;
  f.file_bytes_ = static_cast<int64_t>(bytes.size());
  f.buffers_.push_back(std::make_unique<const std::string>(std::move(bytes)));
  const std::string_view all = *f.buffers_[0];
  if (looks_like_safetensors(all)) {
    f.kind_ = WeightKind::kSafetensors;
    Safetensors s = parse_safetensors(all, where);
    f.facts_ = std::move(s.metadata);
    for (TensorView& t : s.tensors) {
      auto strides = row_major_strides(t.shape);
      f.tensors_.push_back({"", std::move(t.name), t.dtype, std::move(t.shape), std::move(strides), t.bytes});
    }
    return f;
  }
  if (looks_like_torch_legacy(all)) {
    f.kind_ = WeightKind::kTorchLegacy;
    TorchFile t = read_torch_legacy(all, where);
    f.tensors_ = std::move(t.tensors);
    f.facts_ = std::move(t.facts);
    return f;
  }
  if (starts_with(all, "PK")) {
    const ZipArchive zip(all, where);
    constexpr std::string_view kNpy = ".npy";
    const auto is_array = [&](const ZipEntry& e) { return e.name.size() > kNpy.size() && e.name.ends_with(kNpy); };
    if (!zip.entries().empty() && std::all_of(zip.entries().begin(), zip.entries().end(), is_array)) {
      f.kind_ = WeightKind::kNpz;
      for (const ZipEntry& e : zip.entries()) {
        std::string_view content;
        if (e.deflated) {
          f.buffers_.push_back(std::make_unique<const std::string>(zip.content(e)));
          content = *f.buffers_.back();
        } else {
          content = zip.stored(e);
        }
        f.tensors_.push_back(parse_npy(content, e.name.substr(0, e.name.size() - kNpy.size()), where));
      }
      return f;
    }
    f.kind_ = WeightKind::kTorchZip;
    TorchFile t = read_torch_zip(zip, where);
    f.tensors_ = std::move(t.tensors);
    f.facts_ = std::move(t.facts);
    return f;
  }
  const auto [got, hint] = other_kind(all);
  throw Error(ErrorKind::kModel,
              {.where = std::string(where), .required = std::string(kWanted), .got = got, .hint = hint});
}

WeightFile WeightFile::open(const fs::path& path) {
  std::string bytes = read_file(path, ErrorKind::kModel);
  if (starts_with(bytes, "{")) return read_index(bytes, path);
  return parse(std::move(bytes), path.string());
}

WeightFile WeightFile::read_index(std::string_view text, const fs::path& path) {
  const std::string where = path.string();
  const ModelFault fault(where, "get the folder again");
  const auto json = parse_json_strict(text, where, ErrorKind::kModel, {.bytes = int64_t{16} << 20});
  if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object()) {
    fault(std::string(kWanted), "JSON without a weight_map", "the model.safetensors beside it");
  }
  std::map<std::string, std::string> place;  // tensor -> shard
  std::set<std::string> shards;
  for (const auto& [name, file] : json["weight_map"].items()) {
    if (!file.is_string()) fault("weight_map must name a file for each tensor", shown_name(name));
    const auto shard = file.get<std::string>();
    // Beside the index and nowhere else.
    if (shard.empty() || shard.front() == '.' ||
        shard.find_first_of(std::string_view("/\\\0", 3)) != std::string::npos) {
      fault("weight_map must name files beside the index", shown_name(shard));
    }
    place.emplace(name, shard);
    shards.insert(shard);
    if (shards.size() > 10000) fault("weight_map must name at most 10000 files", "more");
  }
  WeightFile f;
  f.kind_ = WeightKind::kShards;
  f.where_ = where;
  for (const std::string& shard : shards) {
    const fs::path file = path.parent_path() / shard;
    WeightFile part = parse(read_file(file, ErrorKind::kModel), file.string());
    if (part.kind_ != WeightKind::kSafetensors) {
      ModelFault(file.string())("a shard must be safetensors", std::string(to_string(part.kind_)));
    }
    for (const WeightTensor& t : part.tensors_) {
      const auto at = place.find(t.name);
      if (at == place.end() || at->second != shard) {
        fault("weight_map must name every tensor of the shards",
              fmt::format("not {} of {}", shown_name(t.name), shard));
      }
      place.erase(at);
    }
    f.file_bytes_ += part.file_bytes_;
    std::move(part.tensors_.begin(), part.tensors_.end(), std::back_inserter(f.tensors_));
    std::move(part.buffers_.begin(), part.buffers_.end(), std::back_inserter(f.buffers_));
    f.facts_.merge(part.facts_);
  }
  if (!place.empty()) {
    fault(fmt::format("shard {} must hold {}", place.begin()->second, shown_name(place.begin()->first)),
          "none of that name");
  }
  return f;
}

std::vector<std::string> WeightFile::groups() const {
  std::vector<std::string> list;
  std::set<std::string_view> seen;
  for (const WeightTensor& t : tensors_) {
    if (seen.insert(t.group).second) list.push_back(t.group);
  }
  return list;
}

}  // namespace aspis
