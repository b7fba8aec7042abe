#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "aspis/io/weight_tensor.h"

namespace aspis {

enum class WeightKind {
  kSafetensors,
  kShards,       ///< model.safetensors.index.json and the files it names
  kTorchZip,     ///< torch.save
  kTorchLegacy,  ///< torch.save of before PyTorch 1.6
  kNpz,          ///< numpy.savez, mlx.core.savez
};
/// "safetensors", "PyTorch checkpoint", ...
std::string_view to_string(WeightKind kind);

/// The tensors of a weight file of any kind, found out from its content, whatever
/// its name is. The file is read once, into memory of this object; tensors are
/// views of it.
///
///     const WeightFile file = WeightFile::open("mambavision_tiny_1k.pth.tar");
///     for (const WeightTensor& t : file.tensors()) ...
class WeightFile {
 public:
  /// Reads a file, or an index with all its shards. Throws Error(kModel) naming
  /// the file and what is wrong with it; nothing in a file is ever executed.
  static WeightFile open(const std::filesystem::path& path);
  /// The same for a file in memory; no shards.
  static WeightFile parse(std::string bytes, std::string_view where);

  WeightKind kind() const { return kind_; }
  /// Path of the file, for messages.
  const std::string& where() const { return where_; }
  int64_t file_bytes() const { return file_bytes_; }
  const std::vector<WeightTensor>& tensors() const { return tensors_; }
  /// Metadata of safetensors; of a PyTorch checkpoint the plain values at its top.
  const std::map<std::string, std::string>& facts() const { return facts_; }

  /// The dicts of the file that hold tensors, in their order; {""} for formats
  /// without dicts.
  std::vector<std::string> groups() const;

 private:
  WeightFile() = default;
  static WeightFile read_index(std::string_view text, const std::filesystem::path& path);

  WeightKind kind_ = WeightKind::kSafetensors;
  std::string where_;
  int64_t file_bytes_ = 0;
  std::vector<std::unique_ptr<const std::string>> buffers_;  // what the tensors are views of
  std::vector<WeightTensor> tensors_;
  std::map<std::string, std::string> facts_;
};

}  // namespace aspis
