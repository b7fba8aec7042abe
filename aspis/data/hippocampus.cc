#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "aspis/base/rng.h"
#include "aspis/data/nifti.h"

namespace aspis::data {
namespace {

namespace fs = std::filesystem;

constexpr int kSide = 16;
constexpr int64_t kTrainCubes = 12, kOtherCubes = 6;

/// One subject: its volume as bytes and the voxels of each part.
struct Subject {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<uint8_t> values;
  std::array<std::vector<int64_t>, 2> voxels;
};

[[noreturn]] void refuse(const fs::path& path, std::string required, std::string got, std::string hint = {}) {
  throw Error(ErrorKind::kData, {.where = shown_path(path),
                                 .required = std::move(required),
                                 .got = std::move(got),
                                 .hint = std::move(hint)});
}

std::vector<std::string> volume_names(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (!name.starts_with('.') && (name.ends_with(".nii") || name.ends_with(".nii.gz"))) names.push_back(name);
  }
  if (error)
    refuse(folder, "a folder of volumes (.nii, .nii.gz) is required", error.message(),
           "the folder that holds images/ and labels/");
  std::sort(names.begin(), names.end());
  return names;
}

Split split_of(size_t subject) {
  return subject % 5 == 3 ? Split::kVal : subject % 5 == 4 ? Split::kTest : Split::kTrain;
}

std::vector<uint8_t> to_bytes(const std::vector<float>& values, const fs::path& path) {
  std::vector<float> sorted = values;
  for (const float v : values) {
    if (!std::isfinite(v)) refuse(path, "every value must be finite", fmt::format("{}", v));
  }
  const auto at = [&](double share) {
    const auto k = static_cast<ptrdiff_t>(share * static_cast<double>(sorted.size() - 1));
    std::nth_element(sorted.begin(), sorted.begin() + k, sorted.end());
    return static_cast<double>(sorted[static_cast<size_t>(k)]);
  };
  const double low = at(0.01), high = std::max(at(0.99), low + 1e-12);
  std::vector<uint8_t> bytes(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    bytes[i] = static_cast<uint8_t>(std::lround(std::clamp((values[i] - low) / (high - low), 0.0, 1.0) * 255));
  }
  return bytes;
}

Subject read_subject(const fs::path& root, const std::string& name) {
  const fs::path image_path = root / "images" / name, label_path = root / "labels" / name;
  const Volume image = read_nifti(image_path), labels = read_nifti(label_path);
  if (image.shape.size() != 3 || image.shape != labels.shape) {
    refuse(label_path,
           fmt::format("the labels must have the sizes of the image, {}", fmt::join(image.shape, " x ")),
           fmt::format("{}", fmt::join(labels.shape, " x ")));
  }
  Subject s{name, image.shape, to_bytes(image.values, image_path), {}};
  for (size_t i = 0; i < labels.values.size(); ++i) {
    const float label = labels.values[i];
    if (label == 1 || label == 2) {
      s.voxels[label == 1 ? 0 : 1].push_back(static_cast<int64_t>(i));
    } else if (label != 0) {
      refuse(label_path, "labels must be 0, 1 or 2", fmt::format("{}", label));
    }
  }
  for (size_t part = 0; part < 2; ++part) {
    if (s.voxels[part].empty()) {
      refuse(label_path, "both labels, 1 and 2, must be there", fmt::format("no {}", part + 1));
    }
  }
  return s;
}

class Hippocampus final : public Dataset {
 public:
  Hippocampus(std::string name, Split split, const fs::path& folder, std::vector<Subject> subjects, uint64_t seed)
      : Dataset(std::move(name), split, {"anterior", "posterior"}, {kSide * kSide, kSide, 1, kSide},
                shown_path(folder)),
        subjects_(std::move(subjects)),
        seed_(seed),
        cubes_(split == Split::kTrain ? kTrainCubes : kOtherCubes) {}

  int64_t size() const override { return static_cast<int64_t>(subjects_.size()) * 2 * cubes_; }
  int32_t label(int64_t index) const override {
    check_index(index);
    return static_cast<int32_t>(index % 2);
  }
  bool in_memory() const override { return true; }
  std::string sample_name(int64_t index) const override {
    check_index(index);
    return fmt::format("{}[{}]", subject(index).name, index % (2 * cubes_));
  }

  Sample get(int64_t index) const override {
    check_index(index);
    const Subject& s = subject(index);
    const auto part = static_cast<size_t>(index % 2);
    Rng rng(seed_, "data.hippocampus", static_cast<uint64_t>(split_), static_cast<uint64_t>(index));
    const std::vector<int64_t>& voxels = s.voxels[part];
    const int64_t middle = voxels[rng.below(voxels.size())], Y = s.shape[1], X = s.shape[2];
    const int64_t corner[3] = {middle / (Y * X) - kSide / 2, middle / X % Y - kSide / 2, middle % X - kSide / 2};
    Image pile(kSide * kSide, kSide, 1);
    for (int z = 0; z < kSide; ++z) {
      for (int y = 0; y < kSide; ++y) {
        for (int x = 0; x < kSide; ++x) {
          const int64_t from[3] = {corner[0] + z, corner[1] + y, corner[2] + x};
          const bool inside =
              from[0] >= 0 && from[0] < s.shape[0] && from[1] >= 0 && from[1] < Y && from[2] >= 0 && from[2] < X;
          if (inside)
            pile.row(z * kSide + y)[x] = s.values[static_cast<size_t>((from[0] * Y + from[1]) * X + from[2])];
        }
      }
    }
    return {std::move(pile), static_cast<int32_t>(part)};
  }

 private:
  const Subject& subject(int64_t index) const { return subjects_[static_cast<size_t>(index / (2 * cubes_))]; }

  std::vector<Subject> subjects_;
  uint64_t seed_;
  int64_t cubes_;
};

}  // namespace

DatasetPtr open_hippocampus(const fs::path& folder, std::string name, Split split, uint64_t seed) {
  const std::vector<std::string> names = volume_names(folder / "images");
  if (names.size() < 5) {
    refuse(folder / "images", "at least five volumes are needed for three splits",
           fmt::format("{}", names.size()));
  }
  std::vector<Subject> subjects;
  for (size_t i = 0; i < names.size(); ++i) {
    if (split_of(i) == split) subjects.push_back(read_subject(folder, names[i]));
  }
  return std::make_shared<Hippocampus>(std::move(name), split, folder, std::move(subjects), seed);
}

}  // namespace aspis::data
