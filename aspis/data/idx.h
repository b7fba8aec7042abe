#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "aspis/data/dataset.h"

namespace aspis::data {

/// An array of bytes in the IDX format (the format of the MNIST files:
/// 0 0 <type 8> <rank>, big-endian sizes, data).
struct IdxArray {
  std::vector<int64_t> shape;
  std::vector<uint8_t> values;
};

/// Parses IDX, raw or gzip by content. Only unsigned bytes, rank 1 to 4. Throws
/// `Error(kData)` naming the file for a wrong magic number, a size that the file
/// cannot hold, an early end, bytes after the end, or a damaged gzip stream.
IdxArray parse_idx(std::string_view bytes, std::string_view name);

/// True if the folder holds the pictures of a split under one of MNIST's names.
bool has_idx_files(const std::filesystem::path& folder, Split split);

/// Opens train or test of a folder with IDX files. Without `classes` the classes
/// are 0 to the largest label of the training split. Throws `Error(kData)`.
DatasetPtr open_idx(const std::filesystem::path& folder, std::string name, Split split,
                    std::vector<std::string> classes = {});

}  // namespace aspis::data
