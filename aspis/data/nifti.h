#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string_view>
#include <vector>

#include "aspis/data/dataset.h"

namespace aspis::data {

/// A volume of a NIfTI file. The file's first axis runs fastest, so that sizes
/// stand here last axis first: {z, y, x}, or {t, z, y, x} and so on.
struct Volume {
  std::vector<int64_t> shape;                 ///< at least three; trailing axes of size 1 are left out
  std::vector<float> values;                  ///< row-major, scaled by the file's slope and intercept
  std::array<double, 3> spacing = {1, 1, 1};  ///< of z, y, x, in the file's unit
};

struct NiftiLimits {
  int64_t max_file_bytes = int64_t{1} << 32;
  int64_t max_values = int64_t{1} << 29;
};

/// Reads NIfTI-1 and NIfTI-2 in one file (.nii), raw or gzip by content, either
/// byte order; integers of 8 to 64 bits and floating point of 32 and 64.
/// Orientation is not applied. Throws `Error(kData)` naming the file for whatever is damaged: header
/// size, magic, axes outside 1 to 7, sizes below 1, a product beyond the limits
/// or beyond what the file can hold, a type that is not supported or does not
/// fit its bits, an offset that is not finite, integral or inside, a slope that
/// is not finite, an early end. Nothing is allocated before that.
Volume parse_nifti(std::string_view bytes, std::string_view name, const NiftiLimits& limits = {});
Volume read_nifti(const std::filesystem::path& path, const NiftiLimits& limits = {});

/// Cubes out of labelled volumes: a folder with images/NAME.nii.gz and
/// labels/NAME.nii.gz (or .nii), labels 1 and 2 for the anterior and the
/// posterior part of a hippocampus, as in task 4 of the Medical Segmentation
/// Decathlon.
///
/// A sample is a cube of 16 x 16 x 16 voxels around a labelled voxel (drawn from
/// seed and number; zero outside the volume), and its class is the part to which
/// that voxel belongs: 0 anterior, 1 posterior. Both classes are equally
/// frequent. Intensities go linearly from the 1st to the 99th percentile of the
/// volume to 0 to 255. Splits are by subject, in order of the names: of every
/// five the fourth is val, the fifth test. Twelve cubes of each part and training
/// subject, six otherwise.
///
/// A picture is a pile of 16 slices, 256 x 16 gray (Geometry::slices). Throws
/// `Error(kData)` naming the file for what is missing, damaged or does not fit together.
DatasetPtr open_hippocampus(const std::filesystem::path& folder, std::string name, Split split, uint64_t seed);

}  // namespace aspis::data
