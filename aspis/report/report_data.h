#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "aspis/base/error.h"
#include "aspis/report/console.h"
#include "aspis/report/sinks.h"

namespace aspis::report {

/// A row of a table of facts: "parameters" -> "1.23 M".
struct ReportFact {
  std::string name = {};
  std::string value = {};
};

/// A curve over the number of updates. NaN and infinite values are gaps.
struct ReportSeries {
  std::vector<double> step = {};
  std::vector<double> value = {};
};

/// The numbers shown large at the top. NaN, or a negative count, is left out.
struct ReportResult {
  double accuracy = kAbsent;  ///< fraction, on the test images
  double loss = kAbsent;
  int64_t best_epoch = -1;
  int64_t epochs = -1;
  double train_seconds = kAbsent;
  double images_per_second = kAbsent;
  double peak_memory_bytes = kAbsent;
  double parameters = kAbsent;
};

/// One test image with its prediction.
struct ReportImage {
  std::string png = {};  ///< bytes of the file
  int label = 0;         ///< index of the true class
  int predicted = 0;
  double probability = kAbsent;  ///< of the predicted class
  std::string name = {};         ///< file or index; may be empty
};

/// A visiting order of the patches: `order[k]` is the row-major number of the
/// patch that is visited k-th.
struct ReportScan {
  std::string name = {};
  std::vector<int32_t> order = {};
};

/// Time of one kind of operation over the run or one step.
struct ReportTiming {
  std::string name = {};
  int64_t calls = 0;
  double seconds = 0;
  std::string note = {};  ///< "62 % of the exp bound"; may be empty
};

/// Everything a report shows. Empty parts are left out of it.
struct ReportData {
  std::string title = {};       ///< "VisionMamba on Fashion-MNIST"
  std::string model_name = {};  ///< "vision_mamba"
  std::string dataset = {};     ///< "Fashion-MNIST"
  std::string state = {};       ///< of the run: "done", "running", "stopped", "failed"
  std::string created = {};     ///< UTC, "2026-11-24T03:51:14Z"
  std::string command = {};
  ReportResult result = {};
  std::vector<ReportFact> extra_results = {};  ///< further rows of the table of results
  std::vector<ReportFact> model_facts = {};    ///< parameters, multiply-adds, patch, width, depth, directions
  std::vector<ReportFact> dataset_facts = {};
  std::vector<ReportFact> training_facts = {};  ///< optimizer, schedule, batch, seed
  std::vector<ReportFact> environment = {};

  double steps_per_epoch = 0;  ///< 0 if not known: the axis is then in steps
  ReportSeries train_loss = {};
  ReportSeries train_accuracy = {};
  ReportSeries val_loss = {};
  ReportSeries val_accuracy = {};
  ReportSeries learning_rate = {};
  ReportSeries grad_norm = {};
  ReportSeries throughput = {};

  std::vector<std::string> class_names = {};
  /// confusion[true class][predicted class], square, as many as class names.
  std::vector<std::vector<int64_t>> confusion = {};
  std::vector<ReportImage> images = {};

  int grid_height = 0;  ///< patches
  int grid_width = 0;
  std::vector<ReportScan> scans = {};
  std::vector<ReportTiming> timings = {};
};

/// Throws `Error(kind)` naming `where` with what is wrong: curves of unequal lengths, a
/// confusion matrix that is not square, labels without a class, an order that is
/// not a permutation of the grid.
void check_report(const ReportData& data, ErrorKind kind = ErrorKind::kUsage, const std::string& where = "report");

/// Replaces the curves by those of the records (names of sinks.h).
void set_curves(ReportData& data, const std::vector<MetricRecord>& records);

/// report.json: the same data as text, so that a report can be made again.
std::string report_to_json(const ReportData& data);
/// Unknown keys are ignored, missing ones keep their defaults. Throws
/// `Error(kData)` naming `where` if the text is not a report or does not pass
/// `check_report`.
ReportData report_from_json(const std::string& text, const std::string& where);

/// The report of a run folder: report.json, with the curves of metrics.jsonl if
/// that is there.
ReportData load_run(const std::filesystem::path& run_folder);

/// Writes report.json and report.html of a run folder.
void write_report(const std::filesystem::path& run_folder, const ReportData& data);

}  // namespace aspis::report
