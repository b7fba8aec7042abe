#include <fmt/format.h>
#include <mlx/memory.h>

#include <algorithm>

#include "aspis/base/clock.h"
#include "aspis/base/file.h"
#include "aspis/cli/commands.h"
#include "aspis/cli/output.h"
#include "aspis/models/registry.h"
#include "aspis/ops/common/profile.h"
#include "aspis/report/curve_page.h"
#include "aspis/report/text.h"
#include "aspis/train/classifier.h"

namespace aspis::cli {
namespace {

namespace fs = std::filesystem;
namespace mx = mlx::core;

struct Options {
  std::vector<std::string> models;
  std::string data, data_dir, split, format, plot;
  int64_t batch = 64, limit_batches = 0;
  int loader_threads = 1;
};

struct Row {
  std::string name, family;
  int64_t parameters = 0, macs = 0;
  std::optional<double> accuracy, top5;
  double images_per_second = 0, memory = 0;
};

// A trained model, or a named one with start values, which has no accuracy.
struct Contender {
  train::Classifier classifier;
  bool trained = true;
};

Contender open(const std::string& name, const data::Dataset* set) {
  std::error_code ec;
  const auto& table = model_table();
  const bool named = std::any_of(table.begin(), table.end(), [&](const ModelEntry& m) { return m.name == name; });
  if (!named || fs::exists(name, ec)) {
    Contender c{train::load_classifier(name), true};
    c.classifier.model_name = name;
    return c;
  }
  Contender c;
  c.trained = false;
  Overrides overrides;
  if (set) {
    overrides.emplace_back("num_classes", std::to_string(set->classes().size()));
    if (set->geometry().channels > 0)
      overrides.emplace_back("in_channels", std::to_string(set->geometry().channels));
  }
  c.classifier.model = make_model(name, overrides);
  c.classifier.model->eval();
  c.classifier.model_name = name;
  const auto shape = c.classifier.model->input_shape();
  auto& p = c.classifier.preprocessing;
  p.height = static_cast<int>(shape.size() == 4 ? shape[0] * shape[1] : shape[0]);
  p.width = static_cast<int>(shape[shape.size() - 2]);
  p.channels = static_cast<int>(shape.back());
  p.mean.assign(static_cast<size_t>(p.channels), 0.5f);
  p.std.assign(static_cast<size_t>(p.channels), 0.5f);
  return c;
}

data::DatasetPtr open_set(const Options& o, const train::Preprocessing* first) {
  data::DatasetOptions options;
  if (first) options = first->dataset_options();
  const std::string spec = !o.data.empty() ? o.data : first ? first->data : "";
  require(!spec.empty(), [] {
    return Error::Parts{.where = "--data",
                        .required = "a data set is needed, as the first model names none",
                        .got = "none",
                        .hint = "--data shapes"};
  });
  if (first && !o.data.empty() && o.data != first->data) options.val_fraction = std::nullopt;
  options.data_dir = o.data_dir;
  return o.split.empty() ? data::open_eval_dataset(spec, options)
                         : data::open_dataset(spec, data::parse_split(o.split), options);
}

// Images per second of inference alone, pictures in memory: the best of three
// passes over one batch, after one to warm up.
double speed(ImageModel& model, const data::Batch& b) {
  const auto input = train::model_input(model, b.images, b.size, b.height, b.width, b.channels);
  ops::evaluate({input});
  double best = 1e30;
  for (int i = 0; i < 4; i++) {
    const double start = monotonic_seconds();
    ops::evaluate({model.logits(input)});
    if (i > 0) best = std::min(best, monotonic_seconds() - start);
  }
  return static_cast<double>(b.size) / best;
}

Row measure(const Context& context, const Options& o, Contender& c, const data::DatasetPtr& set) {
  train::Classifier& classifier = c.classifier;
  ImageModel& model = *classifier.model;
  const auto& pre = classifier.preprocessing;
  if (c.trained && pre.classes != set->classes()) {
    throw Error(ErrorKind::kData,
                {.where = classifier.model_name,
                 .required = fmt::format("the {} classes of {} are needed", set->classes().size(), set->name()),
                 .got = fmt::format("{} classes ('{}', ...)", pre.classes.size(), pre.classes[0])});
  }
  data::LoaderOptions lo;
  lo.batch_size = o.batch;
  lo.threads = o.loader_threads;
  lo.training = false;
  data::Loader loader(set, data::Transform(pre.transform(), *set), lo);
  Row row{classifier.model_name, model.model_type(), model.parameter_count(), model.cost().macs, {}, {}, 0, 0};
  mx::clear_cache();
  mx::reset_peak_memory();
  const auto before = static_cast<double>(mx::get_active_memory());
  {
    data::Batch b;
    loader.start_epoch(0);
    loader.next(b);
    row.images_per_second = speed(model, b);
  }
  row.memory = static_cast<double>(mx::get_peak_memory()) - before + static_cast<double>(model.parameter_bytes());
  if (!c.trained) return row;
  int64_t done = 0;
  const auto e = train::evaluate(model, loader, o.limit_batches, [&](int64_t, int64_t samples) {
    done += samples;
    progress_line(context, fmt::format("{}: {} images", row.name, done));
    return !interrupted();
  });
  progress_line(context, "");
  row.accuracy = e.accuracy;
  row.top5 = e.top5;
  return row;
}

report::Cell percent(const std::optional<double>& share) {
  return share ? report::Cell(*share, fmt::format("{:.2f} %", 100 * *share)) : report::Cell();
}

void write_plot(const Options& o, const data::Dataset& set, const std::vector<Row>& rows) {
  const auto plot = [&](const char* id, const char* title, const char* x_name, const auto& x_of) {
    report::CurvePlot p{.id = id, .title = title, .x_name = x_name, .note = "", .curves = {}};
    for (const Row& r : rows) {
      if (!r.accuracy) continue;
      if (p.curves.size() < 5) {
        p.curves.push_back({r.name, {x_of(r)}, {*r.accuracy}});
      } else {  // the palette has five colours; the rest share the last
        p.curves.back().name = "others";
        p.curves.back().x.push_back(x_of(r));
        p.curves.back().y.push_back(*r.accuracy);
      }
    }
    return p;
  };
  std::vector<report::CurvePlot> plots{
      plot("speed", "Accuracy over speed", "images per second", [](const Row& r) { return r.images_per_second; }),
      plot("size", "Accuracy over size", "parameters",
           [](const Row& r) { return static_cast<double>(r.parameters); })};
  std::vector<report::ReportFact> facts{
      {"Images", fmt::format("{} ({})", set.name(), data::to_string(set.split()))}};
  for (const Row& r : rows) {
    facts.push_back({r.name, fmt::format("{}, {:.0f} images/s, {} parameters, {} of memory at batch {}",
                                         r.accuracy ? fmt::format("{:.2f} %", 100 * *r.accuracy) : "not trained",
                                         r.images_per_second, report::format_si(static_cast<double>(r.parameters)),
                                         format_bytes(r.memory), o.batch)});
  }
  write_file_atomic(o.plot, report::render_curves("Models on " + set.name(), plots, facts), /*durable=*/false);
}

void run(Context& context, const Options& o) {
  install_interrupt_handler();
  std::vector<Row> rows;
  data::DatasetPtr set;
  for (const std::string& name : o.models) {
    Contender c = open(name, set.get());
    if (!set) {
      set = open_set(o, c.trained ? &c.classifier.preprocessing : nullptr);
      if (!c.trained) c = open(name, set.get());
    }
    rows.push_back(measure(context, o, c, set));
    if (interrupted()) {
      context.exit_code = interrupt_exit_code();
      return;
    }
  }
  report::Table table({{"model", "model"},
                       {"family", "family"},
                       {"accuracy", "accuracy", true},
                       {"top5_accuracy", "top-5", true},
                       {"images_per_second", "images/s", true},
                       {"memory_bytes", "memory", true},
                       {"parameters", "parameters", true},
                       {"macs", "multiply-adds", true}});
  for (const Row& r : rows) {
    table.add_row({r.name, r.family, percent(r.accuracy), percent(r.top5),
                   report::Cell(r.images_per_second, fmt::format("{:.0f}", r.images_per_second)),
                   report::Cell(r.memory, format_bytes(r.memory)),
                   report::Cell(r.parameters, report::format_si(static_cast<double>(r.parameters))),
                   report::Cell(r.macs, report::format_si(static_cast<double>(r.macs)))});
  }
  print_table(context, table, o.format);
  if (!o.plot.empty()) write_plot(o, *set, rows);
}

}  // namespace

void add_compare_models(CLI::App& app, Context& context) {
  auto o = std::make_shared<Options>();
  CLI::App* c = add_command(app, "compare", "Look inside", "Several models on the same images, in one table",
                            {"aspis compare runs/mamba runs/vit --plot compare.html",
                             "aspis compare vision_mamba_fmnist vit_fmnist --data shapes --json"},
                            [o, &context] { run(context, *o); });
  c->add_option("models", o->models,
                "Run, checkpoint or model folders, weight files, or names of models (not trained: no accuracy)")
      ->required();
  add_option(c, "--data", o->data, "Data set; default: that of the first model");
  add_option(c, "--data-dir", o->data_dir, "Folder that holds data sets by name");
  add_option(c, "--split", o->split, "train, val or test; default: val if there is one, else test");
  add_option(c, "--batch", o->batch, "Images of a batch")->check(CLI::Range(1, 65536));
  add_option(c, "--limit-batches", o->limit_batches, "Measure accuracy on so many batches; 0: all");
  add_option(c, "--loader-threads", o->loader_threads, "Threads that decode")->check(CLI::Range(1, 256));
  add_option(c, "--plot", o->plot, "Also write a page (HTML) with accuracy over speed and size");
  add_format(c, o->format);
}

}  // namespace aspis::cli
