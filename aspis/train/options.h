#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace aspis::train {

/// Everything a training run is configured by. The defaults stand here and
/// nowhere else; the program shows them and writes the resolved values into the
/// run folder.
struct TrainOptions {
  // What is trained on what.
  std::string model = "vision_mamba_fmnist";
  std::vector<std::string> model_set;  ///< changes of the model's config, "key=value"
  std::string from;                    ///< weights to begin with: a file, a folder, a run, a name in the hub's cache
  std::string data = "fashion-mnist";
  std::string data_dir;        ///< where data sets are looked for first
  double val_fraction = -1;    ///< share of the training split kept for evaluation; negative: the set's own split
  int image_size = 0;          ///< 0: from the model or the data

  // How long.
  int64_t epochs = 4;
  int64_t steps = 0;           ///< if positive, stop after so many updates instead
  double max_minutes = 0;      ///< stop in order after this time; 0: no limit
  int64_t patience = 0;        ///< stop after so many epochs without a better one; 0: never

  // Optimisation.
  int64_t batch = 64;
  double lr = 3e-3;            ///< peak learning rate
  double min_lr_ratio = 0.01;  ///< of the peak, at the end of the cosine
  double warmup = 0.05;        ///< share of all steps with a rising learning rate
  double weight_decay = 0.05;
  std::string optimizer = "adamw";  ///< adamw, sgd, lamb, lion or muon
  double beta1 = 0.9, beta2 = 0.99;
  bool nesterov = false;       ///< with sgd
  double ema = 0;              ///< decay of the moving average that is evaluated and saved; 0: none
  double clip = 1.0;           ///< largest global gradient norm; 0: no clipping
  double label_smoothing = 0.0;
  std::string freeze;          ///< part that is not trained, see freeze_part; empty: none
  double layer_decay = 1.0;    ///< of the learning rate from stage to stage, see learning_rate_shares
  std::string dtype = "float32";  ///< of activations: float32, or bfloat16 beside parameters, optimizer and scans in float32

  // Augmentation of training pictures.
  int crop_padding = 2;
  bool flip = true;
  double erase = 0.0;          ///< probability of a random erased rectangle

  // Data loading.
  int loader_threads = 1;
  std::string on_bad_sample = "error";

  // The run.
  std::string out;             ///< run folder; empty: runs/<date>_<model>
  std::string resume;          ///< run folder to go on with
  uint64_t seed = 0;
  int64_t log_every = 20;      ///< steps between two records of metrics
  double save_minutes = 5;     ///< also save the last checkpoint this often inside an epoch
  int keep = 3;                ///< newest checkpoints that stay, the last one included; the best one always does
  int64_t limit_batches = 0;   ///< training batches of an epoch; 0: all
  int64_t limit_eval_batches = 0;
  bool dry_run = false;        ///< build everything, two steps, no run folder
};

/// Throws Error(kUsage) with one sentence for the first value that makes no
/// sense: NaN, zero or negative where it must be positive, out of range.
void check_options(const TrainOptions& options);

}  // namespace aspis::train
