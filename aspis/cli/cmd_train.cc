#include <fmt/format.h>

#include "aspis/base/clock.h"
#include "aspis/base/error.h"
#include "aspis/cli/commands.h"
#include "aspis/cli/output.h"
#include "aspis/cli/profile.h"
#include "aspis/io/config_json.h"
#include "aspis/train/run_folder.h"
#include "aspis/train/trainer.h"

namespace aspis::cli {
namespace {

struct Options {
  train::TrainOptions train;
  ProfileOptions profile;
  bool print_config = false;
};

void add_options(CLI::App* c, Options& o) {
  train::TrainOptions& t = o.train;
  using CLI::Option;
  const auto group = [](Option* option, const char* name) { option->group(name); };
  group(add_option(c, "--model", t.model, "Model to train; 'aspis model list' shows them"), "Model and data");
  group(add_option(c, "--from", t.from, "Begin with these weights: a weight file, a run or model folder, or a name in the hub's cache"), "Model and data");
  group(add_option(c, "--set", t.model_set, "Change the model's config: key=value, repeatable"), "Model and data");
  group(add_option(c, "--data", t.data, "fashion-mnist, mnist, shapes, folder:PATH, idx:PATH or hippocampus:PATH"), "Model and data");
  group(add_option(c, "--data-dir", t.data_dir, "Folder that holds data sets by name"), "Model and data");
  group(add_option(c, "--image-size", t.image_size, "Side of the pictures in pixels; 0: from data or model"), "Model and data");
  group(add_option(c, "--val-fraction", t.val_fraction,
                   "Share of the training split kept for evaluation; negative: the set's own split"), "Model and data");
  group(add_option(c, "--epochs", t.epochs, "Passes over the training images"), "Length");
  group(add_option(c, "--steps", t.steps, "Number of updates, instead of --epochs"), "Length");
  group(add_option(c, "--max-minutes", t.max_minutes, "Save and stop after so many minutes; 0: no limit"), "Length");
  group(add_option(c, "--patience", t.patience, "Stop after so many epochs without a better one; 0: never"), "Length");
  group(add_option(c, "--batch", t.batch, "Images of one update"), "Optimisation");
  group(add_option(c, "--lr", t.lr, "Peak learning rate"), "Optimisation");
  group(add_option(c, "--min-lr-ratio", t.min_lr_ratio, "Learning rate at the end, as a share of the peak"), "Optimisation");
  group(add_option(c, "--warmup", t.warmup, "Share of the steps with rising learning rate"), "Optimisation");
  group(add_option(c, "--weight-decay", t.weight_decay, "Decoupled weight decay (not on norms, biases, A_log, D)"), "Optimisation");
  group(add_option(c, "--optimizer", t.optimizer, "adamw, sgd, lamb, lion or muon (matrices; AdamW for the rest)"), "Optimisation");
  group(add_option(c, "--beta1", t.beta1, "Decay of the first moment; momentum of SGD"), "Optimisation");
  group(add_option(c, "--beta2", t.beta2, "Decay of the second moment (Lion: of the only one)"), "Optimisation");
  group(add_flag(c, "--nesterov", t.nesterov, "SGD: momentum of Nesterov"), "Optimisation");
  group(add_option(c, "--ema", t.ema, "Decay of a moving average of the weights, which is evaluated and saved; 0: none"), "Optimisation");
  group(add_option(c, "--clip", t.clip, "Largest global gradient norm; 0: no clipping"), "Optimisation");
  group(add_option(c, "--label-smoothing", t.label_smoothing, "Share of the target spread over all classes"), "Optimisation");
  group(add_option(c, "--freeze", t.freeze, "Not trained: all (but norm and classifier), so many first stages, or names with commas"), "Optimisation");
  group(add_option(c, "--layer-decay", t.layer_decay, "Learning rate of a stage as a share of the next one's"), "Optimisation");
  group(add_option(c, "--dtype", t.dtype, "Activations: float32, or bfloat16 (parameters and scans stay in float32)"), "Optimisation");
  group(add_option(c, "--crop-padding", t.crop_padding, "Shift training images by up to so many pixels"), "Augmentation");
  group(add_flag(c, "--flip,!--no-flip", t.flip, "Mirror training images at random (default: on)"), "Augmentation");
  group(add_option(c, "--erase", t.erase, "Probability of an erased rectangle"), "Augmentation");
  group(add_option(c, "--loader-threads", t.loader_threads, "Threads that decode and augment"), "Augmentation");
  group(add_option(c, "--on-bad-sample", t.on_bad_sample, "A damaged picture: error or skip"), "Augmentation");
  group(add_option(c, "--out", t.out, "Run folder; default runs/<date>_<model>"), "Run");
  group(add_option(c, "--resume", t.resume, "Go on with a run folder, bit for bit"), "Run");
  group(add_option(c, "--seed", t.seed, "Seed of start values, data order and augmentation"), "Run");
  group(add_option(c, "--log-every", t.log_every, "Steps between two records of metrics"), "Run");
  group(add_option(c, "--save-minutes", t.save_minutes, "Also save inside an epoch, this often"), "Run");
  group(add_option(c, "--keep", t.keep, "Newest checkpoints that stay; the best one always does"), "Run");
  group(add_option(c, "--limit-batches", t.limit_batches, "Training batches of an epoch; 0: all"), "Run");
  group(add_option(c, "--limit-eval-batches", t.limit_eval_batches, "Batches of an evaluation; 0: all"), "Run");
  group(add_flag(c, "--dry-run", t.dry_run, "Build everything, do two steps, write nothing"), "Run");
  group(add_flag(c, "--print-config", o.print_config, "Print each value and where it comes from, then stop"), "Run");
}

std::string command_line(const Context& context) {
  std::string line = "aspis";
  for (const auto& a : context.arguments) {
    const bool plain = a.find_first_of(" \t\"'$\\*?") == std::string::npos && !a.empty();
    line += plain ? " " + a : " '" + a + "'";
  }
  return line;
}

std::string result_json(const train::TrainResult& r) {
  ConfigWriter w;
  w.set("run", r.folder);
  w.set("state", r.state);
  w.set("reason", r.reason);
  w.set("step", r.step);
  w.set("epoch", r.epoch);
  w.set("accuracy", r.evaluation.accuracy);
  w.set("loss", r.evaluation.loss);
  w.set("best_accuracy", r.best_accuracy);
  w.set("best_epoch", r.best_epoch);
  w.set("train_seconds", r.train_seconds);
  w.set("total_seconds", r.total_seconds);
  w.set("images_per_second", r.images_per_second);
  w.set("skipped_steps", r.skipped_steps);
  return w.text();
}

std::string result_text(const train::TrainResult& r) {
  if (r.folder.empty()) return fmt::format("dry run: {} steps done, nothing written\n", r.step);
  std::string text;
  if (r.evaluation.samples > 0) {
    text += fmt::format("accuracy    {:.2f} % of {} images (best {:.2f} % in epoch {})\n", 100 * r.evaluation.accuracy,
                        r.evaluation.samples, 100 * r.best_accuracy, r.best_epoch);
  }
  text += fmt::format("training    {} in {} steps, {:.0f} images/s; {} in all\n", format_duration(r.train_seconds), r.step,
                      r.images_per_second, format_duration(r.total_seconds));
  if (r.state == "stopped") {
    text += fmt::format("stopped     {}; go on with: aspis train --resume {}\n", r.reason, r.folder);
  }
  text += fmt::format("run folder  {}\n", r.folder);
  if (r.evaluation.samples > 0) text += fmt::format("report      {}/report.html\n", r.folder);
  return text;
}

void run(Context& context, CLI::App* command, Options& o) {
  const std::string toml = config_toml(*command, o.print_config);
  if (o.print_config) {
    print_out(toml);
    return;
  }
  install_interrupt_handler();
  report::ProgressOptions progress_options;
  progress_options.quiet = context.globals.quiet;
  report::Terminal terminal = stderr_terminal(context);
  if (context.globals.quiet) terminal.write = {};
  report::Progress progress(terminal, progress_options);
  train::TrainContext tc;
  tc.progress = &progress;
  tc.should_stop = [] { return interrupted(); };
  tc.config_toml = toml;
  tc.command = command_line(context);
  ProfileScope profile(context, o.profile);
  const train::TrainResult r = train::train(o.train, tc);
  print_out(context.globals.json ? result_json(r) : result_text(r));
  profile.finish();
  if (interrupted()) context.exit_code = interrupt_exit_code();
}

}  // namespace

void add_train(CLI::App& app, Context& context) {
  auto o = std::make_shared<Options>();
  CLI::App* c = add_command(app, "train", "Train", "Train an image classifier",
                            {"aspis train --data fashion-mnist --epochs 4 --out runs/first",
                             "aspis train --data folder:pets --model vision_mamba_small --set depth=4",
                             "aspis train --resume runs/first"},
                            {});
  add_options(c, *o);
  add_profile_options(c, o->profile);
  c->callback([c, o, &context] { run(context, c, *o); });
}

}  // namespace aspis::cli
