#pragma once

#include <mlx/array.h>

#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "aspis/io/safetensors.h"

namespace aspis {

namespace mx = mlx::core;
using NamedArrays = std::vector<std::pair<std::string, mx::array>>;

/// The engine's type for a stored type, and back. Complex arrays have no stored
/// type: Error(kUsage).
mx::Dtype to_mlx(TensorDtype dtype);
TensorDtype to_tensor_dtype(mx::Dtype dtype);

/// A copy of a tensor as an array that owns its memory. Throws Error(kDevice)
/// when memory is out.
mx::array to_array(const TensorView& tensor);

/// Every tensor of a safetensors buffer, in the order of its data. `where` names
/// the file in errors. Throws Error(kModel) as `parse_safetensors` does.
NamedArrays load_arrays(std::string_view bytes, std::string_view where,
                        std::map<std::string, std::string>* metadata = nullptr);

/// A safetensors buffer of these arrays; equal content gives equal bytes,
/// whatever the order of the list. Evaluates the arrays on the calling thread,
/// which must be the one that made them if they are lazy.
std::string dump_arrays(const NamedArrays& arrays, const std::map<std::string, std::string>& metadata = {});

}  // namespace aspis
