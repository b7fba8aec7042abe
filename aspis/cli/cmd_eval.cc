#include <fmt/format.h>

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

void require_same_classes(const train::Classifier& c, const data::Dataset& set) {
  const auto& trained = c.preprocessing.classes;
  if (trained == set.classes()) return;
  throw Error(ErrorKind::kData,
              {.where = set.name(),
               .required = fmt::format("the {} classes of the model are needed ('{}', ...)", trained.size(), trained[0]),
               .got = fmt::format("{} classes ('{}', ...)", set.classes().size(), set.classes()[0]),
               .hint = "the data set that the model was trained on"});
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
  if (!o.data.empty() && o.data != c.preprocessing.data) options.val_fraction = std::nullopt;
  options.data_dir = o.data_dir;
  const std::string spec = o.data.empty() ? c.preprocessing.data : o.data;
  const data::DatasetPtr set =
      o.split.empty() ? data::open_eval_dataset(spec, options) : data::open_dataset(spec, data::parse_split(o.split), options);
  require_same_classes(c, *set);
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
                            {"aspis eval --model runs/first", "aspis eval --model runs/first --split train --confusion --json"},
                            [o, &context] { run(context, *o); });
  add_option(c, "--model", o->model, "Run folder or checkpoint folder")->required();
  add_option(c, "--data", o->data, "Data set; default: the one of training");
  add_option(c, "--data-dir", o->data_dir, "Folder that holds data sets by name");
  add_option(c, "--split", o->split, "train, val or test; default: val if there is one, else test");
  add_option(c, "--batch", o->batch, "Images of a batch")->check(CLI::Range(1, 65536));
  add_option(c, "--limit-batches", o->limit_batches, "Stop after so many batches; 0: all");
  add_option(c, "--loader-threads", o->loader_threads, "Threads that decode")->check(CLI::Range(1, 256));
  add_option(c, "--on-bad-sample", o->on_bad_sample, "A damaged picture: error or skip");
  add_profile_options(c, o->profile);
  add_flag(c, "--confusion", o->confusion, "Also print the confusion matrix");
}

}  // namespace aspis::cli
