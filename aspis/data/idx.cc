#include "aspis/data/idx.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "aspis/base/file.h"
#include "aspis/data/byte_source.h"

namespace aspis::data {
namespace {

constexpr int64_t kMostValues = int64_t{1} << 34;

[[noreturn]] void damaged(std::string_view name, std::string required, std::string got) {
  throw Error(ErrorKind::kData,
              {.where = std::string(name), .required = std::move(required), .got = std::move(got)});
}

// The shape in the header, bounded by what the file can hold.
std::vector<int64_t> read_shape(ByteSource& source, std::string_view name, int64_t file_bytes, int64_t* total) {
  uint8_t magic[4];
  if (source.read(magic, 4) != 4) damaged(name, "an IDX file starts with 4 bytes of magic number", "fewer");
  constexpr uint8_t kUnsignedByte = 8;
  constexpr int kMostAxes = 4;
  const int axes = magic[3];
  if (magic[0] != 0 || magic[1] != 0 || magic[2] != kUnsignedByte || axes < 1 || axes > kMostAxes) {
    damaged(name, "an IDX file of unsigned bytes starts with 00 00 08 and 1 to 4 axes",
            fmt::format("{:02x} {:02x} {:02x} {:02x}", magic[0], magic[1], magic[2], magic[3]));
  }
  std::vector<int64_t> shape;
  *total = 1;
  for (int axis = 0; axis < axes; ++axis) {
    uint8_t b[4];
    if (source.read(b, 4) != 4) damaged(name, fmt::format("the header must name {} sizes", axes), "an early end");
    const int64_t size = int64_t{b[0]} << 24 | b[1] << 16 | b[2] << 8 | b[3];
    shape.push_back(size);
    if (__builtin_mul_overflow(*total, size, total) || *total > kMostValues) {
      damaged(name, fmt::format("an IDX file may hold at most {} values", kMostValues), "more");
    }
  }
  const int64_t header = 4 + 4 * axes;
  const int64_t can_hold = source.gzip() ? file_bytes * ByteSource::kMostInflation : file_bytes - header;
  if (*total > can_hold) {
    damaged(name, fmt::format("the header promises {} values", *total),
            fmt::format("a file of {} bytes; it was probably cut off", file_bytes));
  }
  return shape;
}

constexpr const char* kSuffixes[] = {"", ".gz"};

// MNIST's four names, as its authors and as some mirrors spell them.
std::vector<std::string> file_names(Split split, bool images) {
  const std::string start = split == Split::kTrain ? "train-" : "t10k-";
  const std::string kind = images ? "images" : "labels", type = images ? "idx3-ubyte" : "idx1-ubyte";
  return {start + kind + "-" + type, start + kind + "." + type};
}

std::filesystem::path find_file(const std::filesystem::path& folder, Split split, bool images) {
  for (const std::string& name : file_names(split, images)) {
    for (const char* suffix : kSuffixes) {
      auto path = folder / (name + suffix);
      std::error_code error;
      if (std::filesystem::exists(path, error)) return path;
    }
  }
  return {};
}

std::filesystem::path require_file(const std::filesystem::path& folder, Split split, bool images) {
  auto path = find_file(folder, split, images);
  if (path.empty()) {
    throw Error(ErrorKind::kData, {.where = shown_path(folder),
                                   .required = fmt::format("split '{}' needs the file {}", to_string(split),
                                                           file_names(split, images)[0]),
                                   .got = "none, with or without .gz"});
  }
  return path;
}

class IdxDataset final : public Dataset {
 public:
  IdxDataset(std::string name, Split split, std::vector<std::string> classes, Geometry geometry,
             std::string source, std::vector<uint8_t> pixels, std::vector<uint8_t> labels)
      : Dataset(std::move(name), split, std::move(classes), geometry, std::move(source)),
        pixels_(std::move(pixels)),
        labels_(std::move(labels)) {}

  int64_t size() const override { return static_cast<int64_t>(labels_.size()); }
  bool in_memory() const override { return true; }

  int32_t label(int64_t index) const override {
    check_index(index);
    return labels_[static_cast<size_t>(index)];
  }

  Sample get(int64_t index) const override {
    Sample sample;
    sample.label = label(index);
    Image& image = sample.image;
    image.height = geometry_.height;
    image.width = geometry_.width;
    image.channels = geometry_.channels;
    const int64_t bytes = image.height * image.row_bytes();
    const auto* from = pixels_.data() + index * bytes;
    image.pixels.assign(from, from + bytes);
    return sample;
  }

 private:
  std::vector<uint8_t> pixels_;
  std::vector<uint8_t> labels_;
};

IdxArray read_idx(const std::filesystem::path& path) { return parse_idx(read_file(path), shown_path(path)); }

std::vector<uint8_t> read_labels(const std::filesystem::path& path) {
  IdxArray labels = read_idx(path);
  if (labels.shape.size() != 1) {
    damaged(shown_path(path), "a label file has one axis", fmt::format("{}", labels.shape.size()));
  }
  if (labels.values.empty()) damaged(shown_path(path), "at least one label is required", "none");
  return std::move(labels.values);
}

Geometry picture_geometry(const IdxArray& images, const std::filesystem::path& path) {
  constexpr int64_t kMostSide = 65535;
  const auto& shape = images.shape;
  const bool ok = (shape.size() == 3 || (shape.size() == 4 && (shape[3] == 1 || shape[3] == 3))) &&
                  shape[1] >= 1 && shape[2] >= 1 && shape[1] <= kMostSide && shape[2] <= kMostSide;
  if (!ok) {
    damaged(shown_path(path),
            "an image file has the shape {count, height, width} or {count, height, width, 1 or 3}",
            fmt::format("{{{}}}", fmt::join(shape, ", ")));
  }
  return {static_cast<int>(shape[1]), static_cast<int>(shape[2]),
          shape.size() == 4 ? static_cast<int>(shape[3]) : 1};
}

}  // namespace

IdxArray parse_idx(std::string_view bytes, std::string_view name) {
  ByteSource source(bytes, name);
  IdxArray array;
  int64_t total = 0;
  array.shape = read_shape(source, name, static_cast<int64_t>(bytes.size()), &total);
  array.values.resize(static_cast<size_t>(total));
  const size_t got = source.read(array.values.data(), array.values.size());
  if (got != array.values.size()) {
    damaged(name, fmt::format("the header promises {} values", total),
            fmt::format("{}; the file was probably cut off", got));
  }
  uint8_t extra = 0;
  // For gzip this also reads the trailer, which holds the checksum.
  if (source.read(&extra, 1) != 0) damaged(name, fmt::format("the file must end after {} values", total), "more");
  return array;
}

bool has_idx_files(const std::filesystem::path& folder, Split split) {
  return !find_file(folder, split, true).empty();
}

DatasetPtr open_idx(const std::filesystem::path& folder, std::string name, Split split,
                    std::vector<std::string> classes) {
  std::error_code error;
  if (!std::filesystem::is_directory(folder, error)) {
    damaged(shown_path(folder), "a folder with IDX files is required",
            std::filesystem::exists(folder, error) ? "a file" : "nothing of that name");
  }
  const auto images_path = require_file(folder, split, true);
  const auto labels_path = require_file(folder, split, false);
  std::vector<uint8_t> labels = read_labels(labels_path);
  if (classes.empty()) {
    const auto train = split == Split::kTrain ? labels : read_labels(require_file(folder, Split::kTrain, false));
    const int largest = *std::max_element(train.begin(), train.end());
    for (int c = 0; c <= largest; ++c) classes.push_back(std::to_string(c));
  }
  const auto worst = std::max_element(labels.begin(), labels.end());
  if (*worst >= classes.size()) {
    damaged(shown_path(labels_path), fmt::format("labels must lie in 0 to {}", classes.size() - 1),
            fmt::format("{} at sample {}", *worst, worst - labels.begin()));
  }
  IdxArray images = read_idx(images_path);
  const Geometry geometry = picture_geometry(images, images_path);
  if (images.shape[0] != static_cast<int64_t>(labels.size())) {
    damaged(shown_path(folder), fmt::format("split '{}' needs as many labels as pictures", to_string(split)),
            fmt::format("{} labels for {} pictures", labels.size(), images.shape[0]));
  }
  return std::make_shared<IdxDataset>(std::move(name), split, std::move(classes), geometry, shown_path(folder),
                                      std::move(images.values), std::move(labels));
}

}  // namespace aspis::data
