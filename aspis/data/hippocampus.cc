#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "aspis/base/rng.h"
#include "aspis/data/nifti.h"

namespace aspis::data {
namespace {

namespace fs = std::filesystem;

constexpr int kSide = 16, kJitter = 5;
constexpr int64_t kTrainCubes = 8, kOtherCubes = 4;

/// One subject: its volume as bytes and the middle of each part.
struct Subject {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<uint8_t> values;
  std::array<std::array<double, 3>, 2> middle;
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
  for (const int64_t n : image.shape) {
    if (n < kSide)
      refuse(image_path, fmt::format("a volume of at least {0} x {0} x {0}", kSide),
             fmt::format("{}", fmt::join(image.shape, " x ")));
  }
  Subject s{name, image.shape, to_bytes(image.values, image_path), {}};
  std::array<int64_t, 2> count{};
  for (size_t i = 0; i < labels.values.size(); ++i) {
    const float label = labels.values[i];
    if (label != 1 && label != 2) {
      if (label != 0) refuse(label_path, "labels must be 0, 1 or 2", fmt::format("{}", label));
      continue;
    }
    const size_t part = label == 1 ? 0 : 1;
    const auto at = static_cast<int64_t>(i);
    const int64_t place[3] = {at / (s.shape[1] * s.shape[2]), at / s.shape[2] % s.shape[1], at % s.shape[2]};
    for (int a = 0; a < 3; ++a) s.middle[part][a] += static_cast<double>(place[a]);
    ++count[part];
  }
  for (size_t part = 0; part < 2; ++part) {
    if (count[part] == 0)
      refuse(label_path, "both labels, 1 and 2, must be there", fmt::format("no {}", part + 1));
    for (double& m : s.middle[part]) m /= static_cast<double>(count[part]);
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
    int64_t corner[3];
    for (int a = 0; a < 3; ++a) {
      const auto shift = static_cast<int64_t>(rng.below(2 * kJitter + 1)) - kJitter;
      corner[a] = std::clamp<int64_t>(std::llround(s.middle[part][a]) + shift - kSide / 2, 0, s.shape[a] - kSide);
    }
    Image pile(kSide * kSide, kSide, 1);
    for (int z = 0; z < kSide; ++z) {
      for (int y = 0; y < kSide; ++y) {
        const int64_t from = ((corner[0] + z) * s.shape[1] + corner[1] + y) * s.shape[2] + corner[2];
        std::copy_n(s.values.begin() + from, kSide, pile.row(z * kSide + y));
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
