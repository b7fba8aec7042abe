#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace aspis {

/// Element types that Aspis stores. The order is that of the file format's own
/// library, which the writer follows (widest first).
enum class TensorDtype : uint8_t { kBool, kU8, kI8, kI16, kU16, kF16, kBF16, kI32, kU32, kF32, kF64, kI64, kU64 };

/// "F32", "BF16", "BOOL", ... as in the file.
std::string_view to_string(TensorDtype dtype);
/// Bytes of one element.
int64_t size_of(TensorDtype dtype);

/// A named tensor in a buffer that someone else owns. `bytes` holds the elements
/// in row-major order, little-endian, and may be unaligned: copy with memcpy.
struct TensorView {
  std::string name;
  TensorDtype dtype = TensorDtype::kF32;
  std::vector<int64_t> shape;  ///< empty for a scalar
  std::string_view bytes;
};

/// What the reader accepts at most. The file cannot make it allocate more than a
/// small multiple of `header_bytes`.
struct SafetensorsLimits {
  int64_t header_bytes = int64_t{16} << 20;
  int rank = 8;
};

/// A parsed file: views into the buffer it was parsed from.
struct Safetensors {
  std::vector<TensorView> tensors;  ///< in the order of their data
  std::map<std::string, std::string> metadata;

  /// The tensor of that name, or nullptr.
  const TensorView* find(std::string_view name) const;
};

/// Parses and checks a whole safetensors file (8 bytes of header length, a JSON
/// header, the data; https://github.com/huggingface/safetensors, "Format").
///
/// Everything is checked before anything is returned: header length, JSON depth
/// and number types, known dtypes, rank and dimensions, size = product of the
/// shape, data that covers the file without overlap, hole or rest, no name
/// twice. Data need not be aligned: old writers did not pad the header.
/// Throws Error(kModel) that names `where` and the tensor.
Safetensors parse_safetensors(std::string_view bytes, std::string_view where, const SafetensorsLimits& limits = {});

/// Writes the format so that equal content gives equal bytes: tensors ordered by
/// element size, then name, metadata by key, header padded with spaces to 8
/// bytes, so that all data are aligned. Throws Error(kUsage) if a name is used
/// twice or is not plain UTF-8, or if a size does not agree with its shape.
std::string write_safetensors(std::vector<TensorView> tensors,
                              const std::map<std::string, std::string>& metadata = {});

}  // namespace aspis
