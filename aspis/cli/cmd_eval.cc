#include <fmt/format.h>

#include <algorithm>

#include "aspis/base/clock.h"
#include "aspis/cli/commands.h"
#include "aspis/cli/output.h"
#include "aspis/cli/profile.h"
#include "aspis/io/config_json.h"
#include "aspis/train/classifier.h"

namespace aspis::cli {
namespace {

struct Options {
  std::string model, data, data_dir, split;
  int64_t batch = 256, limit_batches = 0;
  int loader_threads = 1;
  std::string on_bad_sample = "error";
  bool confusion = false;
  ProfileOptions profile;
};

// A set whose classes are some of the model's, with the model's numbers.
class Renumbered final : public data::Dataset {
 public:
  Renumbered(data::DatasetPtr base, std::vector<std::string> classes, std::vector<int32_t> number)
      : Dataset(base->name(), base->split(), std::move(classes), base->geometry(), base->source()),
        base_(std::move(base)),
        number_(std::move(number)) {}
  int64_t size() const override { return base_->size(); }
  data::Sample get(int64_t index) const override {
    data::Sample s = base_->get(index);
    s.label = number_[static_cast<size_t>(s.label)];
    return s;
  }
  int32_t label(int64_t index) const override { return number_[static_cast<size_t>(base_->label(index))]; }
  std::string sample_name(int64_t index) const override { return base_->sample_name(index); }
  bool in_memory() const override { return base_->in_memory(); }

 private:
  data::DatasetPtr base_;
  std::vector<int32_t> number_;
};

// The set with the classes of the model, of which it may have some only, in any
// order. ImageNet's classes are "n01440764 tench", its folders "n01440764".
data::DatasetPtr with_classes_of(const train::Classifier& c, data::DatasetPtr set) {
  const auto& trained = c.preprocessing.classes;
  if (trained == set->classes()) return set;
  std::vector<int32_t> number;
  for (const std::string& name : set->classes()) {
    const auto found = std::find_if(trained.begin(), trained.end(), [&](const std::string& t) {
      return t == name || (t.size() > name.size() && t.starts_with(name) && t[name.size()] == ' ');
    });
    if (found == trained.end()) {
      throw Error(ErrorKind::kData,
                  {.where = set->name(),
                   .required = fmt::format("classes must be among the {} of the model ('{}', ...)", trained.size(), trained[0]),
                   .got = fmt::format("'{}'", name),
                   .hint = nearest_word(name, trained)});
    }
    number.push_back(static_cast<int32_t>(found - trained.begin()));
  }
  return std::make_shared<Renumbered>(std::move(set), trained, std::move(number));
}

std::string to_json(const train::Classifier& c, const data::Dataset& set, const train::Evaluation& e) {
  ConfigWriter w;
  w.set("model", c.folder.string());
  w.set("data", set.name());
  w.set("split", data::to_string(set.split()));
  w.set("samples", e.samples);
  w.set("accuracy", e.accuracy);
  w.set("top5_accuracy", e.top5);
  w.set("loss", e.loss);
  w.set("seconds", e.seconds);
  w.set("images_per_second", static_cast<double>(e.samples) / std::max(1e-9, e.seconds));
  w.set("classes", set.classes());
  ConfigWriter rows;
  for (size_t i = 0; i < e.confusion.size(); i++) rows.set(set.classes()[i], e.confusion[i]);
  w.set("confusion", rows);
  return w.text();
}

void print_confusion(const Context& context, const data::Dataset& set, const train::Evaluation& e) {
  std::vector<report::Column> columns = {{"class", "true \\ predicted"}};
  for (const auto& name : set.classes()) columns.push_back({name, name.substr(0, 8), true});
  columns.push_back({"accuracy", "correct", true});
  report::Table table(columns);
  for (size_t i = 0; i < e.confusion.size(); i++) {
    std::vector<report::Cell> row = {set.classes()[i]};
    int64_t sum = 0;
    for (const int64_t n : e.confusion[i]) {
      row.emplace_back(n);
      sum += n;
    }
    const double share = sum ? static_cast<double>(e.confusion[i][i]) / static_cast<double>(sum) : 0;
    row.emplace_back(share, fmt::format("{:.1f} %", 100 * share));
    table.add_row(std::move(row));
  }
  print_table(context, table, "text");
}

void run(Context& context, const Options& o) {
  train::Classifier c = train::load_classifier(o.model);
  // The set of training is split as it was then; another one as it comes.
  data::DatasetOptions options = c.preprocessing.dataset_options();
  const bool another = !o.data.empty() && o.data != c.preprocessing.data;
  if (another) options.val_fraction = std::nullopt;
  options.data_dir = o.data_dir;
  const std::string spec = o.data.empty() ? c.preprocessing.data : o.data;
  const data::DatasetPtr set = with_classes_of(c, !o.split.empty() ? data::open_dataset(spec, data::parse_split(o.split), options)
                                                  : another        ? data::open_measured_dataset(spec, options)
                                                                   : data::open_eval_dataset(spec, options));
  data::LoaderOptions lo;
  lo.batch_size = o.batch;
  lo.threads = o.loader_threads;
  lo.training = false;
  lo.on_bad_sample = data::parse_on_bad_sample(o.on_bad_sample);
  data::Loader loader(set, data::Transform(c.preprocessing.transform(), *set), lo);
  report::Terminal terminal = stderr_terminal(context);
  if (context.globals.quiet) terminal.write = {};
  report::ProgressOptions progress_options;
  progress_options.quiet = context.globals.quiet;
  report::Progress progress(terminal, progress_options);
  install_interrupt_handler();
  ProfileScope profile(context, o.profile);
  progress.begin({"evaluate", loader.batches_per_epoch(), 0});
  const auto e = train::evaluate(*c.model, loader, o.limit_batches, [&](int64_t batches, int64_t samples) {
    progress.step({batches, samples});
    return !interrupted();
  });
  progress.end();
  if (interrupted()) {
    context.exit_code = interrupt_exit_code();
    return;
  }
  if (context.globals.json) {
    print_out(to_json(c, *set, e));
    profile.finish();
    return;
  }
  print_out(fmt::format("accuracy  {:.2f} % of {} images of {} ({}), top-5 {:.2f} %, loss {:.4f}\nspeed     {:.0f} images/s, {}\n",
                        100 * e.accuracy, e.samples, set->name(), data::to_string(set->split()), 100 * e.top5, e.loss,
                        static_cast<double>(e.samples) / std::max(1e-9, e.seconds), format_duration(e.seconds)));
  if (o.confusion) print_confusion(context, *set, e);
  profile.finish();
}

}  // namespace

void add_eval(CLI::App& app, Context& context) {
  auto o = std::make_shared<Options>();
  CLI::App* c = add_command(app, "eval", "Train", "Measure a trained model on a data set",
                            {"aspis eval --model runs/first", "aspis eval --model runs/first --split train --confusion --json",
                             "aspis eval --model mamba_vision.pth --data folder:imagenet/val"},
                            [o, &context] { run(context, *o); });
  add_option(c, "--model", o->model, "Run, checkpoint or model folder, weight file, or name in the hub's cache")->required();
  add_option(c, "--data", o->data, "Data set, its classes all or some of the model's; default: the one of training");
  add_option(c, "--data-dir", o->data_dir, "Folder that holds data sets by name");
  add_option(c, "--split", o->split, "train, val or test; default: val if there is one, else test; of another set test, val, or all");
  add_option(c, "--batch", o->batch, "Images of a batch")->check(CLI::Range(1, 65536));
  add_option(c, "--limit-batches", o->limit_batches, "Stop after so many batches; 0: all");
  add_option(c, "--loader-threads", o->loader_threads, "Threads that decode")->check(CLI::Range(1, 256));
  add_option(c, "--on-bad-sample", o->on_bad_sample, "A damaged picture: error or skip");
  add_profile_options(c, o->profile);
  add_flag(c, "--confusion", o->confusion, "Also print the confusion matrix");
}

}  // namespace aspis::cli
