#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace aspis {

/// The bytes of an .npy file (format version 1.0) of float32 values, row-major.
/// Throws Error(kUsage) if the product of the shape is not the number of values.
std::string write_npy(std::span<const float> values, const std::vector<int64_t>& shape);

/// The same of texts, as numpy's '<U' type: {n}. Texts must be valid UTF-8, as
/// `to_valid_utf8` makes them.
std::string write_npy(const std::vector<std::string>& texts);

/// The bytes of an .npz file: a zip archive of .npy files that are stored, not
/// compressed. Names without ".npy", each once. Equal input gives equal bytes.
/// Throws Error(kUsage) for a name that comes twice and for 4 GiB or more.
std::string write_npz(const std::vector<std::pair<std::string, std::string>>& arrays);

}  // namespace aspis
