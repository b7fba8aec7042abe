#pragma once

#include <cstdint>
#include <vector>

#include "aspis/data/image.h"

namespace aspis::data {

/// A map of what mattered, laid over its picture: the map {height, width}, all
/// values finite, is interpolated to the picture, scaled from its 1st to its
/// 99th percentile, coloured from black over purple and orange to pale yellow
/// and mixed with the gray picture. Pictures whose smaller side is below
/// `least_side` are shown larger by a whole factor. RGB. Throws `Error(kUsage)`
/// for sizes that do not fit.
Image overlay_heat_map(const Image& picture, const std::vector<float>& map, int height, int width,
                       int least_side = 224);

}  // namespace aspis::data
