#pragma once

#include <string>
#include <string_view>

#include "aspis/io/weight_tensor.h"

namespace aspis {

/// Parses an .npy buffer (format versions 1 to 3, numpy/lib/format.py): magic, a
/// header that is a dict of descr, fortran_order and shape, and exactly the bytes
/// of the array. Little-endian numbers and truth values, either order of axes;
/// '<V2' is bfloat16, as MLX writes it. Python objects (which would be a pickle),
/// records, text and big-endian numbers are refused by name. Throws
/// Error(kModel) that names `where`; the tensor gets the name `name`.
WeightTensor parse_npy(std::string_view bytes, std::string name, std::string_view where);

}  // namespace aspis
