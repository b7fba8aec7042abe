#pragma once

#include <functional>
#include <string>
#include <vector>

#include "aspis/report/console.h"
#include "aspis/train/classifier.h"
#include "aspis/train/options.h"

namespace aspis::train {

/// What surrounds a run: who watches, who may stop it, what to note down.
struct TrainContext {
  report::Progress* progress = nullptr;     ///< may be null
  std::function<bool()> should_stop;        ///< asked after every step; true saves and stops
  std::string stop_reason = "interrupted";  ///< for status.json when should_stop was true
  std::string config_toml;                  ///< resolved options, written to the run folder
  std::string command;                      ///< command line, written to the run folder
};

struct TrainResult {
  std::string folder;      ///< run folder; empty after a dry run
  std::string state;       ///< "done", "stopped"
  std::string reason;      ///< why it stopped
  int64_t step = 0, epoch = 0;
  double best_accuracy = 0;
  int64_t best_epoch = 0;
  double train_seconds = 0;  ///< in training steps, evaluation left out
  double total_seconds = 0;
  double images_per_second = 0;
  Evaluation evaluation;   ///< of the last epoch
  int64_t skipped_steps = 0;
};

/// Trains an image classifier as `options` say: AdamW with cosine schedule,
/// evaluation each epoch, checkpoints `last` and `best`, metrics, status and
/// report in the run folder.
///
/// With `options.resume` it goes on from the last checkpoint of that folder and
/// gives, bit for bit, what the run without a break would have given on the same
/// machine and release.
///
/// Throws Error; the last good checkpoint stays usable whatever happens. A loss
/// or gradient norm that is not finite skips the update; ten in a row end the
/// run with Error(kRuntime).
TrainResult train(const TrainOptions& options, const TrainContext& context);

/// Bytes that a run needs at its largest, from the model's cost and the data.
struct MemoryPlan {
  double parameters = 0, activations = 0, data = 0, engine = 0;
  double total() const { return parameters + activations + data + engine; }
};

/// What a run with this model and batch needs. `copies` of the parameters: with AdamW
/// parameters, gradients and two moments, and a second set while an update runs.
MemoryPlan plan_memory(const ImageModel& model, int64_t batch, int64_t data_bytes, int copies = 8);

/// Throws Error(kDevice) with the numbers if `plan` does not fit into the memory
/// that is available now.
void require_memory(const MemoryPlan& plan, int64_t batch);

}  // namespace aspis::train
