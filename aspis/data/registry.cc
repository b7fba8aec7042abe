// The table of data sets. A new one is a row in kSources and a file that opens it.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "aspis/base/rng.h"
#include "aspis/data/dataset.h"
#include "aspis/data/folder.h"
#include "aspis/data/idx.h"
#include "aspis/data/nifti.h"
#include "aspis/data/shapes.h"

namespace aspis::data {
namespace {

namespace fs = std::filesystem;

struct Splits {
  bool val = false;
  bool test = false;
};

enum class Path { kNone, kOptional, kRequired };

struct Source {
  const char* name;
  const char* description;
  Path path;
  // `path` is the folder given or found; both throw Error for unusable ones.
  Splits (*splits)(const fs::path& path);
  DatasetPtr (*open)(const fs::path& path, const std::string& spec, Split split, const DatasetOptions& options);
};

const std::vector<std::string>& fashion_classes() {
  static const std::vector<std::string> names = {"T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
                                                 "Sandal",      "Shirt",   "Sneaker",  "Bag",   "Ankle boot"};
  return names;
}

const std::vector<std::string>& digit_classes() {
  static const std::vector<std::string> names = {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"};
  return names;
}

Splits idx_splits(const fs::path& path) { return {.val = false, .test = has_idx_files(path, Split::kTest)}; }

Splits folder_splits(const fs::path& path) {
  const FolderLayout layout = folder_layout(path);
  return {.val = !layout.val.empty(), .test = !layout.test.empty()};
}

constexpr Source kSources[] = {
    {"fashion-mnist", "60,000 + 10,000 gray pictures of clothing, 28 x 28, 10 classes", Path::kOptional,
     idx_splits,
     [](const fs::path& path, const std::string& spec, Split split, const DatasetOptions&) {
       return open_idx(path, spec, split, fashion_classes());
     }},
    {"mnist", "60,000 + 10,000 gray pictures of digits, 28 x 28, 10 classes", Path::kOptional, idx_splits,
     [](const fs::path& path, const std::string& spec, Split split, const DatasetOptions&) {
       return open_idx(path, spec, split, digit_classes());
     }},
    {"shapes", "drawn shapes in any position, colour and noise, 32 x 32, 10 classes; needs no files", Path::kNone,
     [](const fs::path&) {
       return Splits{true, true};
     },
     [](const fs::path&, const std::string&, Split split, const DatasetOptions& options) {
       return open_shapes(split, options.seed, options.image_size);
     }},
    {"folder", "your pictures (PNG, JPEG) as class/name.jpg or split/class/name.jpg", Path::kRequired,
     folder_splits,
     [](const fs::path& path, const std::string& spec, Split split, const DatasetOptions&) {
       return open_folder(path, spec, split);
     }},
    {"hippocampus", "16 x 16 x 16 cubes of MR volumes: is the middle anterior or posterior hippocampus",
     Path::kRequired,
     [](const fs::path&) {
       return Splits{true, true};
     },
     [](const fs::path& path, const std::string& spec, Split split, const DatasetOptions& options) {
       return open_hippocampus(path, spec, split, options.seed);
     }},
    {"idx", "a folder of IDX files under MNIST's names, raw or gzip", Path::kRequired, idx_splits,
     [](const fs::path& path, const std::string& spec, Split split, const DatasetOptions&) {
       return open_idx(path, spec, split);
     }},
};

// Some indices of another set, in order.
class Subset final : public Dataset {
 public:
  Subset(DatasetPtr base, Split split, std::vector<int64_t> indices)
      : Dataset(base->name(), split, base->classes(), base->geometry(), base->source()),
        base_(std::move(base)),
        indices_(std::move(indices)) {}
  int64_t size() const override { return static_cast<int64_t>(indices_.size()); }
  Sample get(int64_t index) const override { return base_->get(base_index(index)); }
  int32_t label(int64_t index) const override { return base_->label(base_index(index)); }
  std::string sample_name(int64_t index) const override { return base_->sample_name(base_index(index)); }
  bool in_memory() const override { return base_->in_memory(); }

 private:
  int64_t base_index(int64_t index) const {
    check_index(index);
    return indices_[static_cast<size_t>(index)];
  }
  DatasetPtr base_;
  std::vector<int64_t> indices_;
};

// Takes the seeded share of every class for val and leaves the rest to train.
// At least one sample of a class goes to each side if it has two.
DatasetPtr part_of_train(const DatasetPtr& train, Split part, double fraction, uint64_t seed) {
  std::vector<std::vector<int64_t>> by_class(train->classes().size());
  for (int64_t i = 0; i < train->size(); ++i) by_class[static_cast<size_t>(train->label(i))].push_back(i);
  std::vector<int64_t> chosen;
  for (size_t c = 0; c < by_class.size(); ++c) {
    std::vector<int64_t>& indices = by_class[c];
    const auto n = static_cast<int64_t>(indices.size());
    Rng rng(seed, "data.val_split", c);
    for (int64_t i = n - 1; i > 0; --i) std::swap(indices[i], indices[rng.below(static_cast<uint64_t>(i) + 1)]);
    const auto wanted = static_cast<int64_t>(std::llround(fraction * static_cast<double>(n)));
    const int64_t taken = n >= 2 ? std::clamp<int64_t>(wanted, 1, n - 1) : 0;
    const auto cut = indices.begin() + taken;
    chosen.insert(chosen.end(), part == Split::kVal ? indices.begin() : cut,
                  part == Split::kVal ? cut : indices.end());
  }
  require(
      !chosen.empty(),
      [&] {
        return Error::Parts{.where = train->name(),
                            .required = "a class needs two pictures for a val split",
                            .got = "one in every class"};
      },
      ErrorKind::kData);
  std::sort(chosen.begin(), chosen.end());
  return std::make_shared<Subset>(train, part, std::move(chosen));
}

fs::path environment_path(const char* name) {
  const char* value = std::getenv(name);
  return value ? fs::path(value) : fs::path();
}

// Where a set with a name of its own is looked for, in this order.
std::vector<fs::path> search_places(const std::string& name, const DatasetOptions& options) {
  std::vector<fs::path> roots = {options.data_dir, environment_path("ASPIS_DATA_DIR")};
  const fs::path home = environment_path("HOME");
  const fs::path share = environment_path("XDG_DATA_HOME");
  if (!share.empty()) {
    roots.push_back(share / "aspis");
  } else if (!home.empty()) {
    roots.push_back(home / ".local/share/aspis");
  }
  roots.insert(roots.end(), {"/usr/local/share/datasets", "/usr/share/datasets"});
  std::vector<fs::path> places;
  for (const fs::path& root : roots) {
    if (!root.empty()) places.push_back(root / name);
  }
  return places;
}

fs::path find_named(const std::string& name, const DatasetOptions& options) {
  for (const fs::path& place : search_places(name, options)) {
    if (has_idx_files(place, Split::kTrain) || has_idx_files(place, Split::kTest)) return place;
  }
  return {};
}

[[noreturn]] void throw_not_found(const std::string& name, const DatasetOptions& options) {
  std::string places;
  for (const fs::path& place : search_places(name, options)) {
    places += (places.empty() ? "" : ", ") + shown_path(place);
  }
  const std::string package =
      name == "fashion-mnist" ? "install the Debian package dataset-fashion-mnist, " : std::string();
  throw Error(
      ErrorKind::kData,
      {.where = name,
       .required = "its four files (train-images-idx3-ubyte.gz and so on) are required",
       .got = fmt::format("none of them in {}", places),
       .hint = fmt::format("{}name their folder as {}:PATH, or use the built-in set 'shapes'", package, name)});
}

struct Opened {
  const Source* source = nullptr;
  fs::path path;
};

Opened find_source(std::string_view spec, const DatasetOptions& options) {
  const size_t colon = spec.find(':');
  const std::string head(spec.substr(0, colon));
  const bool has_path = colon != std::string_view::npos && colon + 1 < spec.size();
  const fs::path path = has_path ? fs::path(std::string(spec.substr(colon + 1))) : fs::path();
  std::vector<std::string> names;
  for (const Source& source : kSources) {
    names.emplace_back(source.path == Path::kRequired ? fmt::format("{}:PATH", source.name) : source.name);
    if (head != source.name) continue;
    require(has_path || source.path != Path::kRequired, [&] {
      return Error::Parts{.where = "--data",
                          .required = fmt::format("a folder is required, as {}:PATH", head),
                          .got = std::string(spec)};
    });
    require(colon == std::string_view::npos || source.path != Path::kNone, [&] {
      return Error::Parts{
          .where = "--data", .required = fmt::format("{} takes no path", head), .got = std::string(spec)};
    });
    if (has_path || source.path == Path::kNone) return {&source, path};
    fs::path found = find_named(head, options);
    if (found.empty()) throw_not_found(head, options);
    return {&source, std::move(found)};
  }
  std::error_code error;
  const std::string near = nearest_word(head, names);
  std::string hint = near.empty() ? "" : fmt::format("'{}'", near);
  if (fs::is_directory(fs::path(std::string(spec)), error)) hint = fmt::format("folder:{}", spec);
  throw Error(ErrorKind::kUsage,
              {.where = "--data",
               .required = fmt::format("the data set must be one of {}", fmt::join(names, ", ")),
               .got = fmt::format("'{}'", spec),
               .hint = std::move(hint)});
}

double checked_fraction(const DatasetOptions& options, const Splits& splits) {
  constexpr double kDefault = 0.1;
  const double fraction = options.val_fraction.value_or(splits.val || splits.test ? 0.0 : kDefault);
  require(fraction >= 0 && fraction < 1, [&] {
    return Error::Parts{.where = "--val-fraction",
                        .required = "it must be at least 0 and less than 1",
                        .got = fmt::format("{}", fraction)};
  });
  require(!splits.val || fraction == 0, [&] {
    return Error::Parts{.where = "--val-fraction",
                        .required = "it applies only to sets without a split 'val' of their own",
                        .got = fmt::format("{}", fraction),
                        .hint = "leave it out"};
  });
  return fraction;
}

}  // namespace

DatasetPtr open_dataset(std::string_view spec, Split split, const DatasetOptions& options) {
  const Opened found = find_source(spec, options);
  const Splits splits = found.source->splits(found.path);
  const double fraction = checked_fraction(options, splits);
  const std::string name(spec);
  const bool parted = split != Split::kTest && fraction > 0;
  if (parted) {
    return part_of_train(found.source->open(found.path, name, Split::kTrain, options), split, fraction,
                         options.seed);
  }
  const bool missing = (split == Split::kVal && !splits.val) || (split == Split::kTest && !splits.test);
  require(
      !missing,
      [&] {
        return Error::Parts{.where = name,
                            .required = fmt::format("the split '{}' is required", to_string(split)),
                            .got = splits.test  ? "only train and test"
                                   : splits.val ? "only train and val"
                                                : "only train",
                            .hint = split == Split::kVal
                                        ? "set a val fraction to take it from the training samples"
                                        : "evaluate on val"};
      },
      ErrorKind::kData);
  return found.source->open(found.path, name, split, options);
}

DatasetPtr open_eval_dataset(std::string_view spec, const DatasetOptions& options) {
  const Opened found = find_source(spec, options);
  const Splits splits = found.source->splits(found.path);
  const bool has_val = splits.val || checked_fraction(options, splits) > 0;
  return open_dataset(spec, has_val || !splits.test ? Split::kVal : Split::kTest, options);
}

DatasetPtr open_measured_dataset(std::string_view spec, const DatasetOptions& options) {
  const Opened found = find_source(spec, options);
  const Splits splits = found.source->splits(found.path);
  DatasetOptions whole = options;
  whole.val_fraction = 0.0;
  return open_dataset(spec, splits.test ? Split::kTest : splits.val ? Split::kVal : Split::kTrain, whole);
}

std::vector<DatasetEntry> list_datasets(const DatasetOptions& options) {
  std::vector<DatasetEntry> entries;
  for (const Source& source : kSources) {
    DatasetEntry entry{source.name, source.description, true, ""};
    if (source.path == Path::kRequired) entry.name += ":PATH";
    if (source.path == Path::kOptional) {
      const fs::path place = find_named(source.name, options);
      entry.available = !place.empty();
      entry.where = shown_path(place);
    }
    entries.push_back(std::move(entry));
  }
  return entries;
}

}  // namespace aspis::data
