#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace aspis::report {

// Names of the metrics that the report knows. Others are kept in the files all
// the same.
inline constexpr const char* kTrainLoss = "train/loss";
inline constexpr const char* kTrainAccuracy = "train/accuracy";  ///< fraction
inline constexpr const char* kLearningRate = "train/learning_rate";
inline constexpr const char* kGradNorm = "train/grad_norm";  ///< before clipping
inline constexpr const char* kThroughput = "train/images_per_second";
inline constexpr const char* kMemory = "train/memory_bytes";
inline constexpr const char* kValLoss = "val/loss";
inline constexpr const char* kValAccuracy = "val/accuracy";  ///< fraction
inline constexpr const char* kEpochSeconds = "epoch/seconds";

using Scalars = std::map<std::string, double>;

/// How a run opens its sinks.
struct SinkStart {
  /// False: the files start empty. True: they are continued, and records of a
  /// step beyond `step` (written after the checkpoint that is resumed) are
  /// removed, as is a damaged end.
  bool resume = false;
  int64_t step = 0;
};

/// Where numbers of a run go. Five calls, in this order: begin once; scalars,
/// image and text in any order with steps that do not fall; end once. Every call
/// writes through, so that a killed process loses nothing. `Error(kWrite)` on a
/// failed write. Not thread-safe.
class MetricsSink {
 public:
  virtual ~MetricsSink() = default;
  virtual void begin(const SinkStart& start) = 0;
  /// `step`: number of updates done. `epoch`: epochs done, with a fraction.
  virtual void scalars(int64_t step, double epoch, const Scalars& values) = 0;
  virtual void image(int64_t /*step*/, std::string_view /*tag*/, std::string_view /*png*/) {}
  virtual void text(int64_t /*step*/, std::string_view /*tag*/, std::string_view /*text*/) {}
  virtual void end() {}
};

/// One JSON object per line: {"step":10,"epoch":0.5,"time":"…Z","train/loss":0.7}.
/// JSON has no NaN: such values are the strings "nan", "inf" and "-inf". Texts are
/// {"step":…,"time":…,"text":{tag: text}}; images are left out.
std::unique_ptr<MetricsSink> jsonl_sink(std::filesystem::path path);

/// One row per `scalars` call; columns step, epoch, time, then the known names
/// above, then any new name in order of its first use (the file is rewritten
/// once for it). Absent values are empty. Texts and images are left out.
std::unique_ptr<MetricsSink> csv_sink(std::filesystem::path path);

/// TensorBoard events in `folder`/events.out.tfevents.*: scalars, images (PNG)
/// and texts. See tensorboard.h for the format.
std::unique_ptr<MetricsSink> tensorboard_sink(std::filesystem::path folder);

/// Passes each call to several sinks.
class SinkGroup : public MetricsSink {
 public:
  void add(std::unique_ptr<MetricsSink> sink);
  void begin(const SinkStart& start) override;
  void scalars(int64_t step, double epoch, const Scalars& values) override;
  void image(int64_t step, std::string_view tag, std::string_view png) override;
  void text(int64_t step, std::string_view tag, std::string_view text) override;
  void end() override;

 private:
  std::vector<std::unique_ptr<MetricsSink>> sinks_;
};

/// metrics.jsonl, metrics.csv and TensorBoard events in a run folder.
std::unique_ptr<MetricsSink> run_folder_sinks(const std::filesystem::path& run_folder);

/// One line of metrics.jsonl.
struct MetricRecord {
  int64_t step = 0;
  double epoch = 0;
  Scalars values = {};
};

/// The records of a metrics.jsonl, texts left out. A damaged last line is
/// ignored; one in the middle is `Error(kData)` with its line number.
std::vector<MetricRecord> read_metrics(const std::filesystem::path& path);

/// status.json of a run folder, for scripts.
struct RunStatus {
  std::string state = "running";  ///< running, done, stopped or failed
  std::string reason = {};        ///< "SIGINT", "max-time", an error sentence
  int64_t step = 0;
  int64_t steps = 0;
  int64_t epoch = 0;
  int64_t epochs = 0;
  std::map<std::string, double> metrics;    ///< best_val_accuracy, seconds, …
  std::map<std::string, std::string> info;  ///< best checkpoint, model, …
};

/// Replaces the file at once (a reader sees the old or the new text). Adds
/// "updated" (UTC) and "pid".
void write_status(const std::filesystem::path& path, const RunStatus& status);

/// Throws `Error(kData)` if the file is missing or is not a status.
RunStatus read_status(const std::filesystem::path& path);

}  // namespace aspis::report
