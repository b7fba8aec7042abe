#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "aspis/data/image.h"

namespace aspis::data {

enum class Split { kTrain, kVal, kTest };

/// "train", "val", "test".
std::string_view to_string(Split split);

/// Reads a split's name. Throws `Error(kUsage)` with the nearest word.
Split parse_split(std::string_view name);

/// Size that all pictures of a set share; a zero means that it varies.
struct Geometry {
  int height = 0;
  int width = 0;
  int channels = 0;
  /// Volumes: the picture is a pile of so many slices, one below the other.
  int slices = 1;
  bool fixed() const { return height > 0 && width > 0 && channels > 0; }
  bool operator==(const Geometry&) const = default;
};

struct Sample {
  Image image;
  int32_t label = 0;
};

/// A labelled set of pictures, indexed from 0. Reading is thread-safe and gives
/// the same sample for the same index every time.
class Dataset {
 public:
  virtual ~Dataset() = default;
  Dataset(const Dataset&) = delete;
  Dataset& operator=(const Dataset&) = delete;

  /// What it was opened as, e.g. "fashion-mnist" or "folder:pets".
  const std::string& name() const { return name_; }
  Split split() const { return split_; }
  /// Class names; the label of a sample is an index into them.
  const std::vector<std::string>& classes() const { return classes_; }
  const Geometry& geometry() const { return geometry_; }
  /// Where the samples come from: a folder, or how they are made.
  const std::string& source() const { return source_; }

  virtual int64_t size() const = 0;
  /// Throws `Error(kData)` naming the sample if it is damaged.
  virtual Sample get(int64_t index) const = 0;
  /// The label without decoding the picture.
  virtual int32_t label(int64_t index) const = 0;
  /// What to call a sample in a log: a file name, or "<set>[<index>]".
  virtual std::string sample_name(int64_t index) const;
  /// True if get() costs no more than a copy, so that caching it is pointless.
  virtual bool in_memory() const { return false; }

  /// One line: name, split, number of pictures and classes, geometry, source.
  std::string describe() const;

 protected:
  Dataset(std::string name, Split split, std::vector<std::string> classes, Geometry geometry, std::string source)
      : name_(std::move(name)),
        split_(split),
        classes_(std::move(classes)),
        geometry_(geometry),
        source_(std::move(source)) {}

  /// Throws `Error(kUsage)` if there is no such sample.
  void check_index(int64_t index) const;

  std::string name_;
  Split split_;
  std::vector<std::string> classes_;
  Geometry geometry_;
  std::string source_;
};

using DatasetPtr = std::shared_ptr<const Dataset>;

struct DatasetOptions {
  /// Folder that holds data sets by name; empty: ASPIS_DATA_DIR, then the usual places.
  std::filesystem::path data_dir = {};
  /// Seed of the procedural set and of the split into train and val.
  uint64_t seed = 0;
  /// Share of the training samples that becomes split "val" (and leaves "train"),
  /// class by class. Unset: 0.1 if the set has neither val nor test, else 0.
  std::optional<double> val_fraction = {};
  /// Side of the pictures of "shapes".
  int image_size = 32;
};

/// Opens one split of a data set:
///
///   fashion-mnist, mnist   the four IDX files, raw or .gz; also NAME:PATH
///   idx:PATH               a folder with IDX files under MNIST's names
///   folder:PATH            pictures as class/name.png|jpg or split/class/name.png|jpg
///   hippocampus:PATH       cubes out of volumes, images/*.nii.gz and labels/*.nii.gz (open_hippocampus)
///   shapes                 ten drawn shapes, made from (seed, index); needs no files
///
/// Throws `Error(kUsage)` for an unknown name, with the nearest one, and
/// `Error(kData)` for files that are missing or damaged and for a split that the
/// set does not have.
DatasetPtr open_dataset(std::string_view spec, Split split, const DatasetOptions& options = {});

/// The split to evaluate on while training: val if there is one, else test.
DatasetPtr open_eval_dataset(std::string_view spec, const DatasetOptions& options = {});

/// What a finished model is measured on where the set is not that of its
/// training: test, else val, else all samples.
DatasetPtr open_measured_dataset(std::string_view spec, const DatasetOptions& options = {});

/// Throws `Error(kData)` with one sentence if the two do not fit together:
/// different classes or geometries.
void check_same_kind(const Dataset& train, const Dataset& other);

/// One row of `aspis data list`.
struct DatasetEntry {
  std::string name;         ///< "fashion-mnist", "folder:PATH"
  std::string description;  ///< one line
  bool available = false;   ///< could be opened now (always true for those that take a path)
  std::string where;        ///< the folder in which it was found
};
std::vector<DatasetEntry> list_datasets(const DatasetOptions& options = {});

/// Mean and standard deviation of each channel of pictures scaled to [0, 1].
struct ChannelStats {
  std::vector<float> mean;
  std::vector<float> std;
  int64_t samples = 0;  ///< pictures that were looked at
};

struct DamagedSample {
  int64_t index = 0;
  std::string name;
  std::string message;
};

struct DatasetReport {
  int64_t samples = 0;
  std::vector<int64_t> per_class;
  Geometry smallest, largest;  ///< per axis; of the readable pictures
  ChannelStats stats;          ///< over all pixels; gray counts as RGB in a mixed set
  std::vector<DamagedSample> damaged;
};

/// Reads every sample with `threads` threads. The result does not depend on
/// their number.
DatasetReport inspect(const Dataset& dataset, int threads = 1);

}  // namespace aspis::data
