#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "aspis/data/dataset.h"
#include "aspis/data/loader.h"
#include "aspis/data/transform.h"
#include "aspis/models/image_model.h"

namespace aspis::train {

/// What a picture goes through before the model; stored beside the weights as
/// preprocessor_config.json.
struct Preprocessing {
  int height = 0, width = 0, channels = 0;
  std::vector<float> mean, std;
  std::vector<std::string> classes;
  std::string data;  ///< the set it was trained on, e.g. "fashion-mnist"
  /// Share of the training split that was kept for evaluation; negative: the set's own split.
  double val_fraction = -1;
  uint64_t split_seed = 0;  ///< which samples those are
  // How pictures of another size are fitted, in timm's words.
  double crop_pct = 1;
  std::string crop_mode = "center", interpolation = "bicubic";

  data::TransformOptions transform() const;
  /// How to open `data` so that it is split as in training.
  data::DatasetOptions dataset_options() const;
  std::string to_json() const;
  static Preprocessing from_json(std::string_view text, const std::string& where);
};

/// A trained model as `eval` and `classify` use it.
struct Classifier {
  std::unique_ptr<ImageModel> model;
  std::string model_name;
  Preprocessing preprocessing;
  std::filesystem::path folder;  ///< the checkpoint it came from
  int64_t step = 0;
};

/// What pictures go through before a published model: its published settings, else
/// those of ImageNet; the classes are ImageNet's if there are 1000, else numbers.
Preprocessing published_preprocessing(const ImageModel& model, const std::string& model_name);

/// The best checkpoint of a run folder, else its last one; another path as it is.
std::filesystem::path checkpoint_in(const std::filesystem::path& path);
/// True if `path` is a run folder or a checkpoint folder of `aspis train`.
bool is_run_or_checkpoint(const std::filesystem::path& path);

/// Loads a classifier from a run folder (its best checkpoint, else the last), a
/// checkpoint folder, a model folder, a weight file, or the name of a model in the
/// hub's cache (find_model_files, open_pretrained). Throws Error(kModel) naming the
/// file for whatever is missing or damaged.
Classifier load_classifier(const std::filesystem::path& folder);

/// One picture with what the model says of it.
struct Prediction {
  int64_t index = 0;  ///< in the data set
  int32_t label = 0;
  int32_t predicted = 0;
  float probability = 0;  ///< of `predicted`
};

struct Evaluation {
  double loss = 0, accuracy = 0, top5 = 0;
  int64_t samples = 0;
  double seconds = 0;
  std::vector<std::vector<int64_t>> confusion;  ///< [label][predicted]
  std::vector<Prediction> predictions;          ///< in the order of the data set
};

/// Runs the model over all batches of an evaluation loader. `on_batch(done,
/// samples)` is told after each; returning false stops early. The model is in
/// inference mode while this runs.
Evaluation evaluate(ImageModel& model, data::Loader& loader, int64_t limit_batches = 0,
                    const std::function<bool(int64_t batches, int64_t samples)>& on_batch = {});

/// Class probabilities of one batch of prepared pictures, {size, classes}.
std::vector<std::vector<float>> predict(ImageModel& model, const std::vector<float>& images, int64_t size,
                                        int height, int width, int channels);

/// The same as the model takes them: {size, height, width, channels}, and for a
/// model of volumes, whose slices lie below each other, {size} and its input shape.
mlx::core::array model_input(const ImageModel& model, const std::vector<float>& images, int64_t size, int height,
                             int width, int channels);

/// An array over a batch's values (copied).
mlx::core::array image_array(const std::vector<float>& images, int64_t size, int height, int width, int channels);

}  // namespace aspis::train
