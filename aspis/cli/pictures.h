#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "aspis/cli/cli.h"
#include "aspis/data/image.h"
#include "aspis/data/transform.h"
#include "aspis/train/classifier.h"

/// Pictures that are named on the command line, for the commands that use a model.
namespace aspis::cli {

/// The files named, those in the folders named (sorted), and with "-" one per
/// line of stdin. Throws Error(kData) for a path that is not there and a folder
/// without pictures.
std::vector<std::filesystem::path> list_pictures(const std::vector<std::string>& paths);

struct PictureOptions {
  std::vector<std::string> paths;
  int64_t batch = 64;
  std::string on_bad_sample = "error";
};
/// The argument "paths", --batch and --on-bad-sample.
void add_picture_options(CLI::App* command, PictureOptions& options);

/// Prepared pictures of one batch.
struct PictureBatch {
  std::vector<std::filesystem::path> files;
  std::vector<data::Image> prepared;
  std::vector<float> values;  ///< {files, height, width, channels}, normalised
  int64_t size() const { return static_cast<int64_t>(files.size()); }
};

/// Reads pictures batch by batch as a model wants them. A damaged one is an error,
/// or with on_bad_sample "skip" a warning on stderr.
class PictureReader {
 public:
  /// Throws Error(kUsage) for a model of volumes.
  PictureReader(const train::Classifier& classifier, const PictureOptions& options);
  /// False at the end, or when interrupted.
  bool next(PictureBatch& batch);
  /// The batch as an array for the model.
  mlx::core::array input(const PictureBatch& batch) const;
  int64_t count() const { return static_cast<int64_t>(files_.size()); }
  /// Throws Error(kData) if there were pictures but none could be read.
  void require_some(const char* command) const;

 private:
  const train::Classifier& classifier_;
  std::vector<std::filesystem::path> files_;
  data::Transform transform_;
  int64_t batch_;
  bool skip_;
  size_t at_ = 0;
  int64_t read_ = 0, skipped_ = 0;
};

/// Values of an evaluated array, row-major.
std::vector<float> float_values(const mlx::core::array& a);

}  // namespace aspis::cli
