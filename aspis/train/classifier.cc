#include "aspis/train/classifier.h"

#include <fmt/format.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "aspis/base/clock.h"
#include "aspis/base/error.h"
#include "aspis/io/array_io.h"
#include "aspis/io/checkpoint.h"
#include "aspis/io/config_json.h"
#include "aspis/models/pretrained.h"
#include "aspis/models/registry.h"
#include "aspis/nn/init.h"
#include "aspis/ops/common/profile.h"

namespace aspis::train {

namespace mx = mlx::core;

data::TransformOptions Preprocessing::transform() const {
  data::TransformOptions t;
  t.height = height;
  t.width = width;
  t.channels = channels;
  t.mean = mean;
  t.std = std;
  t.crop_pct = crop_pct;
  t.fit = data::parse_fit(crop_mode);
  t.filter = data::parse_resize_filter(interpolation);
  return t;
}

data::DatasetOptions Preprocessing::dataset_options() const {
  data::DatasetOptions o;
  o.image_size = height;  // the drawn shapes come in any size
  o.seed = split_seed;
  if (val_fraction >= 0) o.val_fraction = val_fraction;
  return o;
}

std::string Preprocessing::to_json() const {
  ConfigWriter w;
  w.set("height", height);
  w.set("width", width);
  w.set("channels", channels);
  w.set("image_mean", std::vector<double>(mean.begin(), mean.end()));
  w.set("image_std", std::vector<double>(std.begin(), std.end()));
  w.set("crop_pct", crop_pct);
  w.set("crop_mode", crop_mode);
  w.set("interpolation", interpolation);
  w.set("classes", classes);
  w.set("data", data);
  w.set("val_fraction", val_fraction);
  w.set("split_seed", std::to_string(split_seed));  // 64 bits, more than a JSON number holds
  return w.text();
}

Preprocessing Preprocessing::from_json(std::string_view text, const std::string& where) {
  ConfigReader r(text, where, ErrorKind::kModel);
  Preprocessing p;
  r.require_keys({"height", "width", "channels", "image_mean", "image_std", "classes"});
  r.integer("height", p.height, 1, 65536);
  r.integer("width", p.width, 1, 65536);
  r.integer("channels", p.channels, 1, 4);
  std::vector<double> mean, deviation;
  r.numbers("image_mean", mean, -1e6, 1e6);
  r.numbers("image_std", deviation, 1e-12, 1e6);
  r.texts("classes", p.classes);
  r.text("data", p.data);
  r.number("crop_pct", p.crop_pct, 1e-3, 1);
  r.choice("crop_mode", p.crop_mode, {"center", "squash", "border"});
  r.choice("interpolation", p.interpolation, {"bicubic", "bilinear"});
  r.number("val_fraction", p.val_fraction, -1, 0.9);
  std::string seed = std::to_string(p.split_seed);
  r.text("split_seed", seed);
  const auto [end, error] = std::from_chars(seed.data(), seed.data() + seed.size(), p.split_seed);
  if (error != std::errc() || end != seed.data() + seed.size()) {
    throw Error(
        ErrorKind::kModel,
        {.where = where, .required = "split_seed must be a whole number as text", .got = "'" + seed + "'"});
  }
  if (mean.size() != static_cast<size_t>(p.channels) || deviation.size() != mean.size()) {
    throw Error(ErrorKind::kModel, {.where = where,
                                    .required = fmt::format("image_mean and image_std need {} values", p.channels),
                                    .got = fmt::format("{} and {}", mean.size(), deviation.size())});
  }
  p.mean.assign(mean.begin(), mean.end());
  p.std.assign(deviation.begin(), deviation.end());
  return p;
}

Preprocessing published_preprocessing(const ImageModel& model, const std::string& model_name) {
  static const PublishedWeights other;
  const PublishedWeights* known = published_weights(model_name);
  if (!known) known = &other;
  Preprocessing p;
  const auto shape = model.input_shape();
  p.width = static_cast<int>(shape[shape.size() - 2]);
  p.channels = static_cast<int>(shape.back());
  // The slices of a volume lie below one another.
  p.height = 1;
  for (size_t i = 0; i + 2 < shape.size(); i++) p.height *= static_cast<int>(shape[i]);
  const auto channels = static_cast<size_t>(p.channels);
  p.mean.assign(known->mean.begin(), known->mean.end());
  p.std.assign(known->std.begin(), known->std.end());
  if (channels != p.mean.size()) {
    // Of one channel the middle of the three, of others one half.
    p.mean.assign(channels, channels == 1 ? p.mean[1] : 0.5f);
    p.std.assign(channels, channels == 1 ? p.std[1] : 0.5f);
  }
  p.crop_pct = known->crop_pct;
  p.crop_mode = known->crop_mode;
  p.interpolation = known->interpolation;
  p.classes = imagenet_classes();
  if (model.num_classes() != static_cast<int64_t>(p.classes.size())) {
    p.classes.clear();
    for (int64_t i = 0; i < model.num_classes(); i++) p.classes.push_back(std::to_string(i));
  }
  return p;
}

namespace {

Classifier load_published(const std::filesystem::path& path) {
  Pretrained p = open_pretrained(path);
  Classifier c;
  c.model_name = p.name.empty() ? p.model->model_type() : p.name;
  c.preprocessing = published_preprocessing(*p.model, p.name);
  // A preprocessor_config.json of the Transformers library has other words and no classes.
  if (p.preprocessor.find("\"classes\"") != std::string::npos) {
    c.preprocessing = Preprocessing::from_json(p.preprocessor, (path / "preprocessor_config.json").string());
  }
  c.model = std::move(p.model);
  c.folder = p.file;
  return c;
}

void require_classes(const Classifier& c, const std::string& where) {
  if (c.model->num_classes() == static_cast<int64_t>(c.preprocessing.classes.size())) return;
  throw Error(ErrorKind::kModel, {.where = where,
                                  .required = fmt::format("the model has {} classes", c.model->num_classes()),
                                  .got = fmt::format("{} class names", c.preprocessing.classes.size())});
}

}  // namespace

std::filesystem::path checkpoint_in(const std::filesystem::path& path) {
  for (const char* name : {"best", "last"}) {
    if (checkpoint_exists(path / "checkpoints" / name)) return path / "checkpoints" / name;
  }
  return path;
}

bool is_run_or_checkpoint(const std::filesystem::path& path) {
  const std::filesystem::path from = checkpoint_in(path);
  // A model folder has the files of a checkpoint but no manifest.
  std::error_code ec;
  return from != path || std::filesystem::exists(from / "manifest.json", ec) ||
         (!std::filesystem::exists(from, ec) && checkpoint_exists(from));
}

Classifier load_classifier(const std::filesystem::path& path) {
  namespace fs = std::filesystem;
  if (!is_run_or_checkpoint(path)) {
    const fs::path place = find_model_files(path.string());
    std::error_code ec;
    if (fs::is_directory(place, ec) && fs::is_empty(place, ec)) {
      throw Error(ErrorKind::kModel,
                  {.where = place.string(),
                   .required = "a checkpoint with a manifest.json, or a model folder with model.safetensors, is needed",
                   .got = "an empty folder",
                   .hint = "the run folder of 'aspis train', or the folder of 'aspis convert'"});
    }
    Classifier c = load_published(place);
    require_classes(c, place.string());
    return c;
  }
  const fs::path from = checkpoint_in(path);
  const Checkpoint checkpoint = load_checkpoint(from);
  const std::string where = checkpoint.folder.string() + "/";
  Classifier c;
  {
    const BlankWeights blank;  // they are loaded next
    c.model = make_model_from_config(checkpoint.file("config.json"), 0, where + "config.json");
  }
  c.model->load(load_arrays(checkpoint.file("model.safetensors"), where + "model.safetensors"));
  c.model->eval();
  c.preprocessing =
      Preprocessing::from_json(checkpoint.file("preprocessor_config.json"), where + "preprocessor_config.json");
  require_classes(c, where + "preprocessor_config.json");
  c.model_name = checkpoint.manifest.model;
  c.folder = checkpoint.folder;
  c.step = checkpoint.manifest.step;
  return c;
}

mx::array image_array(const std::vector<float>& images, int64_t size, int height, int width, int channels) {
  return mx::array(images.begin(), {static_cast<int>(size), height, width, channels}, mx::float32);
}

mx::array model_input(const ImageModel& model, const std::vector<float>& images, int64_t size, int height,
                      int width, int channels) {
  auto x = image_array(images, size, height, width, channels);
  const auto shape = model.input_shape();
  if (shape.size() == 3) return x;
  mx::Shape want{static_cast<int>(size)};
  for (const int64_t n : shape) want.push_back(static_cast<int>(n));
  return mx::reshape(x, want);
}

namespace {

// Softmax of one row in double.
std::vector<float> probabilities(const float* logits, int64_t classes) {
  const float top = *std::max_element(logits, logits + classes);
  std::vector<double> e(classes);
  double sum = 0;
  for (int64_t i = 0; i < classes; i++) sum += e[i] = std::exp(static_cast<double>(logits[i]) - top);
  std::vector<float> p(classes);
  for (int64_t i = 0; i < classes; i++) p[i] = static_cast<float>(e[i] / sum);
  return p;
}

// Puts a module into inference mode and back.
class InferenceMode {
 public:
  explicit InferenceMode(Module& m) : module_(m), was_training_(m.training()) { m.eval(); }
  ~InferenceMode() { module_.train(was_training_); }

 private:
  Module& module_;
  bool was_training_;
};

}  // namespace

Evaluation evaluate(ImageModel& model, data::Loader& loader, int64_t limit_batches,
                    const std::function<bool(int64_t, int64_t)>& on_batch) {
  const InferenceMode mode(model);
  const int64_t classes = model.num_classes();
  Evaluation e;
  e.confusion.assign(classes, std::vector<int64_t>(classes));
  int64_t correct = 0, in_top5 = 0, batches = 0;
  double loss = 0;
  const double start = monotonic_seconds();
  loader.start_epoch(0);
  for (data::Batch b; (limit_batches == 0 || batches < limit_batches) && loader.next(b);) {
    mx::array logits =
        mx::contiguous(model.logits(model_input(model, b.images, b.size, b.height, b.width, b.channels)));
    ops::evaluate({logits});
    for (int64_t i = 0; i < b.size; i++) {
      const float* row = logits.data<float>() + i * classes;
      const auto p = probabilities(row, classes);
      const auto predicted = static_cast<int32_t>(std::max_element(p.begin(), p.end()) - p.begin());
      const int32_t label = b.labels[i];
      const auto above = std::count_if(row, row + classes, [&](float v) { return v > row[label]; });
      correct += predicted == label;
      in_top5 += above < 5;
      loss -= std::log(std::max(static_cast<double>(p[label]), 1e-45));
      e.confusion[label][predicted]++;
      e.predictions.push_back({b.indices[i], label, predicted, p[predicted]});
    }
    e.samples += b.size;
    batches++;
    if (on_batch && !on_batch(batches, b.size)) break;
  }
  e.seconds = monotonic_seconds() - start;
  const auto n = static_cast<double>(std::max<int64_t>(1, e.samples));
  e.loss = loss / n;
  e.accuracy = static_cast<double>(correct) / n;
  e.top5 = static_cast<double>(in_top5) / n;
  return e;
}

std::vector<std::vector<float>> predict(ImageModel& model, const std::vector<float>& images, int64_t size,
                                        int height, int width, int channels) {
  const InferenceMode mode(model);
  mx::array logits = mx::contiguous(model.logits(model_input(model, images, size, height, width, channels)));
  ops::evaluate({logits});
  std::vector<std::vector<float>> all;
  for (int64_t i = 0; i < size; i++) {
    all.push_back(probabilities(logits.data<float>() + i * model.num_classes(), model.num_classes()));
  }
  return all;
}

}  // namespace aspis::train
