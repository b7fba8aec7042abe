#include "aspis/train/trainer.h"

#include <fmt/format.h>
#include <mlx/memory.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "aspis/base/clock.h"
#include "aspis/base/cpu.h"
#include "aspis/base/error.h"
#include "aspis/base/log.h"
#include "aspis/base/parallel.h"
#include "aspis/io/array_io.h"
#include "aspis/io/checkpoint.h"
#include "aspis/io/config_json.h"
#include "aspis/models/pretrained.h"
#include "aspis/models/registry.h"
#include "aspis/nn/drop_path.h"
#include "aspis/ops/common/profile.h"
#include "aspis/ops/cross_entropy/cross_entropy.h"
#include "aspis/ops/elementwise/elementwise.h"
#include "aspis/report/sinks.h"
#include "aspis/train/classifier.h"
#include "aspis/train/fine_tune.h"
#include "aspis/train/optimizer.h"
#include "aspis/train/run_folder.h"
#include "aspis/train/run_report.h"
#include "aspis/train/schedule.h"

namespace aspis::train {

namespace mx = mlx::core;
namespace fs = std::filesystem;

namespace {

constexpr int kMostSkippedInARow = 10;
constexpr int kMostFailedSaves = 3;
constexpr int kStepsOfPeak = 3;  // after which the peak of memory is noted down

// Where a run stands; saved as state.json beside the weights.
struct Position {
  int64_t step = 0;         // batches that were worked on, skipped updates included
  int64_t updates = 0;      // updates that took place
  int64_t epoch = 0;        // epochs that are complete
  int64_t batch = 0;        // batches of the present epoch that are done
  double loss_sum = 0;      // over the samples of this epoch
  int64_t correct = 0, seen = 0;
  int64_t skipped = 0;
  double best_accuracy = -1;
  int64_t best_epoch = 0;
  double train_seconds = 0, total_seconds = 0;
  int64_t images = 0;
};

std::string to_json(const Position& p, const TrainOptions& o) {
  ConfigWriter w;
  w.set("step", p.step);
  w.set("updates", p.updates);
  w.set("epoch", p.epoch);
  w.set("batch", p.batch);
  w.set("loss_sum", p.loss_sum);
  w.set("correct", p.correct);
  w.set("seen", p.seen);
  w.set("skipped", p.skipped);
  w.set("best_accuracy", p.best_accuracy);
  w.set("best_epoch", p.best_epoch);
  w.set("train_seconds", p.train_seconds);
  w.set("total_seconds", p.total_seconds);
  w.set("images", p.images);
  ConfigWriter run;
  run.set("data", o.data);
  run.set("batch", o.batch);
  run.set("seed", std::to_string(o.seed));
  run.set("limit_batches", o.limit_batches);
  run.set("optimizer", o.optimizer);
  run.set("ema", o.ema > 0);
  w.set("run", run);
  return w.text();
}

Position position_from_json(const std::string& text, const std::string& where, const TrainOptions& o) {
  constexpr int64_t kMost = int64_t{1} << 60;
  Position p;
  ConfigReader r(text, where, ErrorKind::kModel);
  r.integer("step", p.step, 0, kMost);
  r.integer("updates", p.updates, 0, kMost);
  r.integer("epoch", p.epoch, 0, kMost);
  r.integer("batch", p.batch, 0, kMost);
  r.number("loss_sum", p.loss_sum, -1e300, 1e300);
  r.integer("correct", p.correct, 0, kMost);
  r.integer("seen", p.seen, 0, kMost);
  r.integer("skipped", p.skipped, 0, kMost);
  r.number("best_accuracy", p.best_accuracy, -1, 1);
  r.integer("best_epoch", p.best_epoch, 0, kMost);
  r.number("train_seconds", p.train_seconds, 0, 1e12);
  r.number("total_seconds", p.total_seconds, 0, 1e12);
  r.integer("images", p.images, 0, kMost);
  // What decides the order of the data must be as it was.
  ConfigReader run = r.object("run");
  std::string data, seed, optimizer = "adamw";
  bool ema = false;
  int64_t batch = 0, limit = 0;
  run.text("data", data);
  run.text("seed", seed);
  run.integer("batch", batch, 0, kMost);
  run.integer("limit_batches", limit, 0, kMost);
  run.text("optimizer", optimizer);
  run.flag("ema", ema);
  const auto same = [&](const char* flag, const std::string& saved, const std::string& now) {
    require(saved == now, [&] {
      return Error::Parts{flag, fmt::format("a resumed run keeps its value {}", saved), now,
                          "leave it out with --resume"};
    });
  };
  same("--data", data, o.data);
  same("--seed", seed, std::to_string(o.seed));
  same("--batch", std::to_string(batch), std::to_string(o.batch));
  same("--limit-batches", std::to_string(limit), std::to_string(o.limit_batches));
  same("--optimizer", optimizer, o.optimizer);
  same("--ema", ema ? "above 0" : "0", o.ema > 0 ? "above 0" : "0");
  return p;
}

data::DatasetOptions dataset_options(const TrainOptions& o) {
  data::DatasetOptions d;
  d.data_dir = o.data_dir;
  d.seed = o.seed;
  if (o.val_fraction >= 0) d.val_fraction = o.val_fraction;
  if (o.image_size > 0) d.image_size = o.image_size;
  return d;
}

bool is_set(const TrainOptions& o, std::string_view key) {
  return std::any_of(o.model_set.begin(), o.model_set.end(),
                     [&](const std::string& s) { return s.substr(0, s.find('=')) == key; });
}

// The model's overrides: what the user set, then what follows from the data.
Overrides model_overrides(const TrainOptions& o, const data::Dataset& data) {
  Overrides overrides;
  for (const std::string& s : o.model_set) {
    const size_t eq = s.find('=');
    require(eq != std::string::npos && eq > 0, [&] {
      return Error::Parts{"--set", "a change of the model's config is key=value", s, "--set depth=2"};
    });
    overrides.emplace_back(s.substr(0, eq), s.substr(eq + 1));
  }
  const auto follow = [&](const char* key, int64_t value) {
    if (!is_set(o, key)) overrides.emplace_back(key, std::to_string(value));
  };
  follow("num_classes", static_cast<int64_t>(data.classes().size()));
  const data::Geometry g = data.geometry();
  if (g.channels > 0) follow("in_channels", g.channels);
  if (o.image_size > 0) {
    follow("img_size", o.image_size);
  } else if (g.width > 0 && g.height == g.width * g.slices) {
    follow("img_size", g.width);
  }
  return overrides;
}

/// Weights that a run begins with.
struct StartWeights {
  WeightFile file;
  Overrides overrides;  ///< that the model needs to compute what they were trained for
};

StartWeights open_start(const std::string& from, const std::string& model) {
  if (is_run_or_checkpoint(from)) {
    const Checkpoint c = load_checkpoint(checkpoint_in(from));
    const std::string where = (c.folder / "model.safetensors").string();
    return {WeightFile::parse(c.file("model.safetensors"), where), {}};
  }
  const fs::path path = find_model_files(from);
  std::error_code ec;
  WeightFile file = WeightFile::open(fs::is_directory(path, ec) ? weights_in_folder(path) : path);
  Overrides overrides = overrides_for_weights(find_model(model), path, file);
  return {std::move(file), std::move(overrides)};
}

// The averaged parameters in the place of the last ones, if there are averages.
class AveragedWeights {
 public:
  explicit AveragedWeights(Optimizer& optimizer) : optimizer_(optimizer) { optimizer_.swap_averages(); }
  AveragedWeights(const AveragedWeights&) = delete;
  AveragedWeights& operator=(const AveragedWeights&) = delete;
  ~AveragedWeights() { optimizer_.swap_averages(); }

 private:
  Optimizer& optimizer_;
};

class Trainer {
 public:
  Trainer(const TrainOptions& options, const TrainContext& context) : o_(options), context_(context) {}

  TrainResult run() {
    check_options(o_);
    started_ = monotonic_seconds();
    open_data();
    build_model();
    plan_steps();
    if (o_.dry_run) return dry_run();
    open_folder();
    try {
      loop();
    } catch (const Error& e) {
      note_failure(e.what());
      throw;
    } catch (const std::exception& e) {
      note_failure(e.what());
      throw;
    }
    return finish();
  }

 private:
  // --- preparation -----------------------------------------------------------

  void open_data() {
    const auto options = dataset_options(o_);
    train_set_ = data::open_dataset(o_.data, data::Split::kTrain, options);
    eval_set_ = data::open_eval_dataset(o_.data, options);
    data::check_same_kind(*train_set_, *eval_set_);
  }

  void build_model() {
    Overrides overrides = model_overrides(o_, *train_set_);
    // A run that goes on has its weights in its own folder.
    const std::optional<StartWeights> start =
        o_.from.empty() || !o_.resume.empty() ? std::nullopt : std::optional(open_start(o_.from, o_.model));
    if (start) {
      for (const auto& [key, value] : start->overrides) {
        if (!is_set(o_, key)) overrides.emplace_back(key, value);
      }
    }
    model_ = make_model(o_.model, overrides, o_.seed);
    if (start) {
      const WeightReport report = load_weights(*model_, start->file, {.adapt = true});
      notes_ = report.adapted;
      notes_.insert(notes_.begin(), fmt::format("weights of {}: {} of {} tensors", report.file, report.fitting, report.expected));
    }
    const auto shape = model_->input_shape();
    const bool volumes = train_set_->geometry().slices > 1;
    require(shape.size() == (volumes ? 4 : 3), [&] {
      return Error::Parts{"--model", volumes ? "a model of volumes is needed" : "a model of flat images is needed",
                          o_.model, volumes ? "--set input_dim=3, where the model has it" : "aspis model list"};
    });
    data::TransformOptions t;
    t.height = static_cast<int>(volumes ? shape[0] * shape[1] : shape[0]);
    t.width = static_cast<int>(shape[shape.size() - 2]);
    t.channels = static_cast<int>(shape.back());
    t.slices = volumes ? static_cast<int>(shape[0]) : 1;
    // Statistics of the training split as the model will see it.
    const data::Transform plain(t, *train_set_);
    const bool skip = data::parse_on_bad_sample(o_.on_bad_sample) == data::OnBadSample::kSkip;
    const auto stats = data::channel_stats(*train_set_, plain, o_.loader_threads, skip);
    t.mean = stats.mean;
    t.std = stats.std;
    // Published weights know pictures on the scale they were trained on.
    const PublishedWeights* known = start ? published_weights(o_.model) : nullptr;
    if (known && known->mean.size() == t.mean.size()) {
      t.mean.assign(known->mean.begin(), known->mean.end());
      t.std.assign(known->std.begin(), known->std.end());
    }
    preprocessing_ = {t.height, t.width,         t.channels, t.mean, t.std, train_set_->classes(),
                      o_.data,  o_.val_fraction, o_.seed,    1,      "center", "bicubic"};
    t.crop_padding = o_.crop_padding;
    t.flip = o_.flip;
    t.erase_prob = o_.erase;
    t.seed = o_.seed;
    const int64_t bytes = train_set_->size() * int64_t{t.height} * t.width * t.channels;
    plan_ = plan_memory(*model_, o_.batch, bytes,
                        2 * (2 + state_count(optimizer_kind(o_.optimizer)) + (o_.ema > 0 ? 1 : 0)));
    require_memory(plan_, o_.batch);

    data::LoaderOptions loader;
    loader.batch_size = o_.batch;
    loader.threads = o_.loader_threads;
    loader.seed = o_.seed;
    loader.drop_last = train_set_->size() >= o_.batch;
    loader.on_bad_sample = data::parse_on_bad_sample(o_.on_bad_sample);
    train_loader_ = std::make_unique<data::Loader>(train_set_, data::Transform(t, *train_set_), loader);
    loader.training = false;
    loader.drop_last = false;
    loader.batch_size = 256;
    eval_loader_ = std::make_unique<data::Loader>(
        eval_set_, data::Transform(preprocessing_.transform(), *eval_set_), loader);
    OptimizerSettings settings;
    settings.kind = optimizer_kind(o_.optimizer);
    settings.beta1 = o_.beta1;
    settings.beta2 = o_.beta2;
    settings.nesterov = o_.nesterov;
    settings.weight_decay = o_.weight_decay;
    settings.clip = o_.clip;
    settings.ema = o_.ema;
    if (!o_.freeze.empty()) freeze_part(*model_, o_.freeze);
    auto rates = o_.layer_decay < 1 ? learning_rate_shares(*model_, o_.layer_decay) : std::vector<double>();
    optimizer_ = std::make_unique<Optimizer>(*model_, settings, rates);
  }

  void plan_steps() {
    batches_per_epoch_ = train_loader_->batches_per_epoch();
    if (o_.limit_batches > 0) batches_per_epoch_ = std::min(batches_per_epoch_, o_.limit_batches);
    total_steps_ = o_.steps > 0 ? o_.steps : o_.epochs * batches_per_epoch_;
    epochs_ = div_ceil(total_steps_, batches_per_epoch_);
    schedule_.peak = o_.lr;
    schedule_.floor = o_.lr * o_.min_lr_ratio;
    schedule_.warmup = static_cast<int64_t>(o_.warmup * static_cast<double>(total_steps_));
    schedule_.steps = total_steps_;
  }

  void open_folder() {
    const bool resume = !o_.resume.empty();
    fs::path path = resume ? o_.resume : o_.out;
    if (path.empty()) path = fs::path("runs") / (folder_timestamp() + "_" + o_.model);
    require(!resume || holds_run(path), [&] {
      return Error::Parts{"--resume", "a run folder with a checkpoint is needed", "'" + path.string() + "'",
                          "the --out of an earlier run"};
    });
    folder_ = std::make_unique<RunFolder>(path, !resume);
    if (resume) load_last();
    write_file_atomic(folder_->file("config.toml"), context_.config_toml);
    write_file_atomic(folder_->file("environment.json"), environment_json(o_.seed));
    AppendFile(folder_->file("command.txt")).write(context_.command + "\n");
    sinks_ = report::run_folder_sinks(folder_->path());
    sinks_->begin({resume, at_.step});
    for (const std::string& note : notes_) say(note);
    say(fmt::format("{} {}: {} parameters, {} training and {} evaluation images, {} steps of {} images",
                    resume ? "resuming" : "training", o_.model, model_->parameter_count(), train_set_->size(),
                    eval_set_->size(), total_steps_, o_.batch));
    say("run folder: " + folder_->path().string());
    write_status("running", "");
  }

  void load_last() {
    CheckpointExpected expected;
    expected.model = o_.model;
    expected.fallback = former_checkpoints(folder_->last());
    expected.fallback.push_back(folder_->best());
    const Checkpoint c = load_checkpoint(folder_->last(), expected);
    const std::string where = c.folder.string() + "/";
    require(
        c.file("config.json") == model_->config_json(),
        [&] {
          return Error::Parts{where + "config.json", "a resumed run keeps its model and its config", "another config",
                              "leave out --model and --set with --resume"};
        },
        ErrorKind::kModel);
    model_->load(load_arrays(c.file("model.safetensors"), where + "model.safetensors"));
    at_ = position_from_json(c.file("state.json"), where + "state.json", o_);
    optimizer_->load(load_arrays(c.file("optimizer.safetensors"), where + "optimizer.safetensors"), at_.updates,
                     where + "optimizer.safetensors");
  }

  // --- the loop --------------------------------------------------------------

  void loop() {
    double last_save = monotonic_seconds();
    while (at_.step < total_steps_ && !stopping()) {
      begin_phase();
      train_loader_->start_epoch(at_.epoch, at_.batch);
      for (data::Batch b; at_.batch < batches_per_epoch_ && at_.step < total_steps_ && train_loader_->next(b);) {
        one_step(b);
        if (check_stop()) break;
        if (monotonic_seconds() - last_save > 60 * o_.save_minutes) {
          save_last();
          last_save = monotonic_seconds();
        }
      }
      if (context_.progress) context_.progress->end();
      if (stopping()) break;
      end_epoch();
      last_save = monotonic_seconds();
    }
    if (stopping()) save_last();
  }

  void begin_phase() {
    epoch_start_ = monotonic_seconds();
    if (!context_.progress) return;
    context_.progress->begin({fmt::format("epoch {}/{}", at_.epoch + 1, epochs_),
                              std::min(batches_per_epoch_, at_.batch + total_steps_ - at_.step),
                              std::max<int64_t>(0, total_steps_ - at_.step - (batches_per_epoch_ - at_.batch))});
  }

  // One batch: gradients, norm, update in one evaluation of the graph.
  void one_step(const data::Batch& b) {
    if (steps_here_ == 0) mx::reset_peak_memory();
    const double start = monotonic_seconds();
    model_->train();
    CrossEntropyOptions loss_options;
    loss_options.label_smoothing = o_.label_smoothing;
    const bool half = o_.dtype == "bfloat16" || o_.dtype == "bf16";
    const LossFn loss_fn = [&](const std::vector<mx::array>& in) {
      const auto logits =
          half ? cast(model_->logits(cast(in[0], mx::bfloat16)), mx::float32) : model_->logits(in[0]);
      return std::vector<mx::array>{cross_entropy(logits, in[1], loss_options), logits};
    };
    const auto labels = mx::array(b.labels.begin(), {static_cast<int>(b.size)}, mx::int32);
    const RandomStep random(o_.seed, at_.step);
    auto [values, gradients] =
        value_and_grad(*model_, loss_fn, {model_input(*model_, b.images, b.size, b.height, b.width, b.channels), labels});
    const double rate = schedule_(at_.step);
    mx::array norm = optimizer_->update(gradients, values[0], rate);
    gradients.clear();  // so that their buffers can be reused while the graph runs
    std::vector<mx::array> wanted = optimizer_->pending();
    wanted.push_back(values[0]);
    wanted.push_back(values[1]);
    wanted.push_back(norm);
    for (const auto& [name, buffer] : model_->buffers()) wanted.push_back(buffer);  // running statistics
    ops::evaluate(wanted);
    const double loss = values[0].item<float>(), grad_norm = norm.item<float>();
    at_.step++;
    at_.batch++;
    at_.images += b.size;
    guard(loss, grad_norm, b);
    if (std::isfinite(loss)) {
      at_.loss_sum += loss * static_cast<double>(b.size);
      at_.correct += count_correct(values[1], b.labels);
      at_.seen += b.size;
    }
    const double seconds = monotonic_seconds() - start;
    at_.train_seconds += seconds;
    record_step(b, loss, grad_norm, rate, seconds);
    if (++steps_here_ == kStepsOfPeak && folder_) {
      folder_->log(fmt::format("memory of a step: {} at its peak, {} planned (parameters, optimizer, activations)",
                               format_bytes(static_cast<double>(mx::get_peak_memory())),
                               format_bytes(plan_.parameters + plan_.activations)));
    }
  }

  static int64_t count_correct(const mx::array& logits, const std::vector<int32_t>& labels) {
    mx::array dense = mx::contiguous(logits);
    dense.eval();
    const float* row = dense.data<float>();
    const int classes = logits.shape(1);
    int64_t correct = 0;
    for (const int32_t label : labels) {
      correct += std::max_element(row, row + classes) - row == label;
      row += classes;
    }
    return correct;
  }

  // The update left everything as it was if loss or norm is not finite.
  void guard(double loss, double grad_norm, const data::Batch& b) {
    const bool finite = std::isfinite(loss) && std::isfinite(grad_norm);
    optimizer_->confirm(finite);
    at_.updates = optimizer_->steps();
    if (finite) {
      skipped_in_a_row_ = 0;
      return;
    }
    at_.skipped++;
    skipped_in_a_row_++;
    const std::string what = fmt::format("step {}: loss {}, gradient norm {}: update skipped", at_.step, loss, grad_norm);
    log_warning("train", what);
    if (folder_) folder_->log(what);
    if (skipped_in_a_row_ < kMostSkippedInARow) return;
    ConfigWriter dump;
    dump.set("step", at_.step);
    dump.set("epoch", at_.epoch);
    dump.set("batch", at_.batch - 1);
    dump.set("indices", b.indices);
    if (folder_) write_file_atomic(folder_->file("bad_batch.json"), dump.text());
    throw Error(ErrorKind::kRuntime,
                {.where = "train",
                 .required = fmt::format("the loss must be finite; {} steps in a row were not", kMostSkippedInARow),
                 .got = fmt::format("loss {}, gradient norm {} at step {}", loss, grad_norm, at_.step),
                 .hint = "a lower --lr; the last good checkpoint is kept"});
  }

  void record_step(const data::Batch& b, double loss, double grad_norm, double rate, double seconds) {
    const double accuracy = at_.seen ? static_cast<double>(at_.correct) / static_cast<double>(at_.seen) : 0;
    const double mean_loss = at_.seen ? at_.loss_sum / static_cast<double>(at_.seen) : loss;
    window_images_ += b.size;
    window_seconds_ += seconds;
    if (context_.progress) {
      context_.progress->step({at_.batch, b.size, mean_loss, accuracy, rate,
                               static_cast<double>(current_memory_bytes())});
    }
    if (sinks_ && (at_.step % o_.log_every == 0 || at_.step == 1)) {
      sinks_->scalars(at_.step, epoch_fraction(),
                      {{report::kTrainLoss, loss},
                       {report::kTrainAccuracy, accuracy},
                       {report::kLearningRate, rate},
                       {report::kGradNorm, grad_norm},
                       {report::kThroughput, static_cast<double>(window_images_) / window_seconds_},
                       {report::kMemory, static_cast<double>(current_memory_bytes())}});
      window_images_ = 0;
      window_seconds_ = 0;
    }
  }

  double epoch_fraction() const {
    return static_cast<double>(at_.epoch) + static_cast<double>(at_.batch) / static_cast<double>(batches_per_epoch_);
  }

  void end_epoch() {
    report::EpochSummary summary;
    const auto seen = static_cast<double>(std::max<int64_t>(1, at_.seen));
    summary.train_loss = at_.loss_sum / seen;
    summary.train_accuracy = static_cast<double>(at_.correct) / seen;
    evaluation_ = run_evaluation();
    at_.epoch++;
    at_.batch = 0;
    at_.loss_sum = 0;
    at_.correct = at_.seen = 0;
    const bool best = evaluation_.accuracy > at_.best_accuracy;
    if (best) {
      at_.best_accuracy = evaluation_.accuracy;
      at_.best_epoch = at_.epoch;
    }
    summary.epoch = at_.epoch;
    summary.epochs = epochs_;
    summary.val_loss = evaluation_.loss;
    summary.val_accuracy = evaluation_.accuracy;
    summary.best = best;
    summary.seconds = monotonic_seconds() - epoch_start_;
    sinks_->scalars(at_.step, static_cast<double>(at_.epoch),
                    {{report::kValLoss, evaluation_.loss},
                     {report::kValAccuracy, evaluation_.accuracy},
                     {report::kEpochSeconds, summary.seconds}});
    folder_->log(report::format_epoch(summary, false, false));
    if (context_.progress) context_.progress->epoch(summary);
    save_last();
    if (best) save(folder_->best());
    write_status("running", "");
    // Also while it runs, so that a run can be watched in the browser and one
    // that is killed leaves a page behind.
    try {
      write_report(result("running"));
    } catch (const Error& e) {
      log_warning("train", fmt::format("no report this time: {}", e.what()));
    }
    if (o_.patience > 0 && at_.epoch - at_.best_epoch >= o_.patience && at_.step < total_steps_) {
      stop_ = fmt::format("no better epoch since epoch {}", at_.best_epoch);
      early_ = true;
    }
  }

  Evaluation run_evaluation() {
    int64_t batches = eval_loader_->batches_per_epoch();
    if (o_.limit_eval_batches > 0) batches = std::min(batches, o_.limit_eval_batches);
    if (context_.progress) context_.progress->begin({"evaluate", batches, 0});
    const AveragedWeights averaged(*optimizer_);
    auto e = evaluate(*model_, *eval_loader_, o_.limit_eval_batches, [&](int64_t done, int64_t samples) {
      if (context_.progress) context_.progress->step({done, samples});
      return true;
    });
    if (context_.progress) context_.progress->end();
    return e;
  }

  // --- stopping --------------------------------------------------------------

  bool stopping() const { return !stop_.empty(); }

  bool check_stop() {
    if (context_.should_stop && context_.should_stop()) {
      stop_ = context_.stop_reason;
    } else if (o_.max_minutes > 0 && at_.total_seconds + monotonic_seconds() - started_ > 60 * o_.max_minutes &&
               at_.step < total_steps_) {
      stop_ = fmt::format("the limit of {:g} minutes", o_.max_minutes);
    }
    return stopping();
  }

  // --- files -----------------------------------------------------------------

  std::vector<CheckpointFile> checkpoint_files() {
    Position now = at_;
    now.total_seconds = at_.total_seconds + monotonic_seconds() - started_;
    const std::string optimizer = dump_arrays(optimizer_->state());
    const AveragedWeights averaged(*optimizer_);  // what was evaluated is what is saved
    return {{"config.json", model_->config_json()},
            {"model.safetensors", dump_arrays(model_->state(), {{"format", "aspis"}})},
            {"optimizer.safetensors", optimizer},
            {"preprocessor_config.json", preprocessing_.to_json()},
            {"state.json", to_json(now, o_)}};
  }

  // A failed write keeps the run going on the old checkpoint, three times.
  void save(const fs::path& folder, int former = 0) {
    CheckpointManifest manifest;
    manifest.model = o_.model;
    manifest.step = at_.step;
    manifest.info = {{"version", version()}, {"threads", std::to_string(num_threads())}};
    try {
      save_checkpoint(folder, checkpoint_files(), manifest, former);
      failed_saves_ = 0;
    } catch (const Error& e) {
      if (++failed_saves_ >= kMostFailedSaves) throw;
      log_warning("train", fmt::format("{} (the former checkpoint is kept, training goes on)", e.what()));
    }
  }
  void save_last() { save(folder_->last(), o_.keep - 1); }

  void write_status(const std::string& state, const std::string& reason) {
    report::RunStatus s;
    s.state = state;
    s.reason = reason;
    s.step = at_.step;
    s.steps = total_steps_;
    s.epoch = at_.epoch;
    s.epochs = epochs_;
    if (at_.best_accuracy >= 0) s.metrics["best_val_accuracy"] = at_.best_accuracy;
    s.metrics["seconds"] = at_.total_seconds + monotonic_seconds() - started_;
    s.info["model"] = o_.model;
    s.info["data"] = o_.data;
    report::write_status(folder_->file("status.json"), s);
  }

  void write_report(const TrainResult& r) {
    write_run_report(folder_->path(), *model_, o_.model, preprocessing_, *eval_set_, r, context_.command);
  }

  void note_failure(const std::string& what) noexcept {
    try {
      if (context_.progress) context_.progress->end();
      folder_->log("failed: " + what);
      write_status("failed", what);
    } catch (const std::exception&) {
      // The first error is the one to tell.
    }
  }

  void say(const std::string& line) {
    folder_->log(line);
    if (context_.progress) context_.progress->message(line);
  }

  TrainResult result(const std::string& state) {
    TrainResult r;
    r.folder = folder_ ? folder_->path().string() : "";
    r.state = state;
    r.reason = stop_;
    r.step = at_.step;
    r.epoch = at_.epoch;
    r.best_accuracy = std::max(0.0, at_.best_accuracy);
    r.best_epoch = at_.best_epoch;
    r.train_seconds = at_.train_seconds;
    r.total_seconds = at_.total_seconds + monotonic_seconds() - started_;
    r.images_per_second = static_cast<double>(at_.images) / std::max(1e-9, at_.train_seconds);
    r.evaluation = evaluation_;
    r.skipped_steps = at_.skipped;
    return r;
  }

  TrainResult finish() {
    const bool stopped = stopping() && !early_;
    if (evaluation_.samples == 0 && !stopped) evaluation_ = run_evaluation();  // resumed after its end
    TrainResult r = result(stopped ? "stopped" : "done");
    sinks_->end();
    write_status(r.state, r.reason);
    if (evaluation_.samples > 0) write_report(r);
    folder_->log(r.state + (r.reason.empty() ? "" : ": " + r.reason));
    return r;
  }

  TrainResult dry_run() {
    data::Batch b;
    train_loader_->start_epoch(0);
    for (int i = 0; i < 2 && train_loader_->next(b); i++) one_step(b);
    return result("dry run");
  }

  const TrainOptions o_;
  const TrainContext& context_;
  data::DatasetPtr train_set_, eval_set_;
  Preprocessing preprocessing_;
  std::vector<std::string> notes_;  // of the weights it began with, for the log
  std::unique_ptr<ImageModel> model_;
  std::unique_ptr<data::Loader> train_loader_, eval_loader_;
  std::unique_ptr<Optimizer> optimizer_;
  MemoryPlan plan_;
  int64_t steps_here_ = 0;  // of this process
  std::unique_ptr<RunFolder> folder_;
  std::unique_ptr<report::MetricsSink> sinks_;
  CosineSchedule schedule_;
  int64_t batches_per_epoch_ = 0, total_steps_ = 0, epochs_ = 0;
  Position at_;
  Evaluation evaluation_;
  double started_ = 0, epoch_start_ = 0;
  int64_t window_images_ = 0;
  double window_seconds_ = 0;
  int skipped_in_a_row_ = 0, failed_saves_ = 0;
  std::string stop_;    // why the run is to stop; empty: it goes on
  bool early_ = false;  // stopped because no epoch was better: a normal end
};

}  // namespace

TrainResult train(const TrainOptions& options, const TrainContext& context) { return Trainer(options, context).run(); }

MemoryPlan plan_memory(const ImageModel& model, int64_t batch, int64_t data_bytes, int copies) {
  MemoryPlan plan;
  plan.parameters = static_cast<double>(copies) * static_cast<double>(model.parameter_bytes());
  plan.activations = static_cast<double>(model.cost().training_bytes(batch));
  plan.data = static_cast<double>(data_bytes);
  plan.engine = 300e6;  // program, engine, loader buffers
  return plan;
}

void require_memory(const MemoryPlan& plan, int64_t batch) {
  const auto available = static_cast<double>(cpu_report().memory_available_bytes);
  if (available <= 0 || plan.total() <= available) return;
  throw Error(ErrorKind::kDevice,
              {.where = "train",
               .required = fmt::format("about {} of memory is needed ({} parameters and optimizer, {} activations at "
                                       "batch {}, {} data)",
                                       format_bytes(plan.total()), format_bytes(plan.parameters),
                                       format_bytes(plan.activations), batch, format_bytes(plan.data)),
               .got = format_bytes(available) + " available",
               .hint = "a smaller --batch or model"});
}

}  // namespace aspis::train
