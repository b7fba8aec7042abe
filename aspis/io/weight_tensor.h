#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "aspis/io/cursor.h"
#include "aspis/io/safetensors.h"

namespace aspis {

/// A tensor as a file of any format holds it: a strided view of someone else's
/// buffer, which may be unaligned.
struct WeightTensor {
  std::string group;  ///< the dict it lies in, dotted: "", "model", "optimizer.state.0"
  std::string name;
  TensorDtype dtype = TensorDtype::kF32;
  std::vector<int64_t> shape;    ///< empty for a scalar
  std::vector<int64_t> strides;  ///< in elements, not negative, one for each dimension
  std::string_view bytes;        ///< from the first element to the end of the last

  int64_t elements() const;
  /// True if the elements follow one another in row-major order.
  bool contiguous() const;
  /// The elements in row-major order: a view of the file, or of `buffer`, into
  /// which they are gathered.
  TensorView packed(std::string& buffer) const;
};

/// Strides of a tensor whose elements follow one another, the last axis fastest;
/// INT64_MAX where they overflow.
std::vector<int64_t> row_major_strides(const std::vector<int64_t>& shape);

/// Cuts a tensor out of `storage`, after these checks, which `fault` words: at
/// most 8 dimensions of at most 2^31 - 1, a number of elements that fits, no more
/// of them than the storage has (so that a file cannot ask for more memory than
/// it is long), strides that are not negative, first and last element inside the
/// storage. `offset` counts elements.
WeightTensor cut_tensor(std::string group, std::string name, TensorDtype dtype, std::vector<int64_t> shape,
                        std::vector<int64_t> strides, int64_t offset, std::string_view storage,
                        const ModelFault& fault);

/// Faults if two tensors of one group share a part of their bytes. Tensors over
/// the very same bytes are tied weights and allowed.
void refuse_partial_overlap(const std::vector<WeightTensor>& tensors, const ModelFault& fault);

/// Faults unless the name is UTF-8 without control characters.
void require_plain_name(std::string_view name, const ModelFault& fault);

}  // namespace aspis
