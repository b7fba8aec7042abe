#pragma once

#include "aspis/data/dataset.h"

namespace aspis::data {

/// The built-in set: one of ten shapes, turned by any angle, scaled, moved,
/// coloured, on a shaded ground with clutter and noise. A pure function of
/// (seed, split, index), balanced over the classes. RGB, size x size.
///
/// Throws `Error(kUsage)` for a size outside 16 to 512.
DatasetPtr open_shapes(Split split, uint64_t seed, int size);

/// The class names, in the order of the labels.
const std::vector<std::string>& shape_names();

}  // namespace aspis::data
