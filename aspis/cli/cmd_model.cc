#include <fmt/format.h>

#include "aspis/base/clock.h"
#include "aspis/cli/commands.h"
#include "aspis/cli/output.h"
#include "aspis/cli/weights.h"
#include "aspis/io/config_json.h"
#include "aspis/io/names.h"
#include "aspis/models/registry.h"
#include "aspis/nn/init.h"
#include "aspis/report/text.h"
#include "aspis/train/classifier.h"

namespace aspis::cli {
namespace {

struct Options {
  std::string filter = "*";
  std::string name;
  std::vector<std::string> set;
  int64_t batch = 64;
  int depth = 2;
  bool config = false;
  std::string format;
};

void list(const Context& context, const Options& o) {
  report::Table table({{"name", "model"}, {"family", "family"}, {"parameters", "parameters", true},
                       {"macs", "multiply-adds", true}, {"input", "input"}, {"description", "description"}});
  for (const auto& m : list_models(o.filter)) {
    const BlankWeights blank;  // the largest would take gigabytes
    const auto model = make_model(m.name);
    std::string input;
    for (const int64_t d : model->input_shape()) input += (input.empty() ? "" : " x ") + std::to_string(d);
    const auto parameters = static_cast<double>(model->parameter_count());
    const auto macs = static_cast<double>(model->cost().macs);
    table.add_row({m.name, m.model_type, report::Cell(model->parameter_count(), report::format_si(parameters)),
                   report::Cell(model->cost().macs, report::format_si(macs)), input, m.description});
  }
  print_table(context, table, o.format);
}

std::unique_ptr<ImageModel> open_model(const Options& o, std::string& name, const PublishedWeights*& known) {
  std::error_code ec;
  // A slash is in no name of the table: a path, or a model on the hub.
  if (std::filesystem::exists(o.name, ec) || o.name.find('/') != std::string::npos) {
    train::Classifier c = train::load_classifier(o.name);
    name = c.model_name + " from " + c.folder.string();
    known = published_weights(c.model_name);
    return std::move(c.model);
  }
  name = o.name;
  known = published_weights(o.name);
  const BlankWeights blank;
  return make_model(o.name, parse_overrides(o.set));
}

void info(const Context& context, const Options& o) {
  std::string name;
  const PublishedWeights* known = nullptr;
  const auto model = open_model(o, name, known);
  if (o.config) {
    print_out(model->config_json());
    return;
  }
  const ModelCost cost = model->cost();
  if (context.globals.json) {
    ConfigWriter w;
    w.set("name", name);
    w.set("model_type", model->model_type());
    w.set("parameters", model->parameter_count());
    w.set("parameter_bytes", model->parameter_bytes());
    w.set("macs", cost.macs);
    w.set("scan_macs", cost.scan_macs);
    w.set("exps", cost.exps);
    w.set("batch", o.batch);
    w.set("inference_bytes", cost.inference_bytes(o.batch) + model->parameter_bytes());
    w.set("training_bytes", cost.training_bytes(o.batch) + 4 * model->parameter_bytes());
    if (known) {
      w.set("weights", known->weights);
      w.set("weights_licence", known->licence);
      if (known->top1 > 0) w.set("published_top1", known->top1);
      if (known->top5 > 0) w.set("published_top5", known->top5);
      if (known->top1 > 0) w.set("published_source", known->source);
    }
    print_out(w.text());
    return;
  }
  const auto bytes = [](int64_t n) { return format_bytes(static_cast<double>(n)); };
  std::string text = fmt::format("{}\n\n{}\n", name, model->summary(o.depth));
  text += fmt::format("multiply-adds per image  {} (of these {} in scans), {} exponentials\n", report::format_si(static_cast<double>(cost.macs)),
                      report::format_si(static_cast<double>(cost.scan_macs)), report::format_si(static_cast<double>(cost.exps)));
  text += fmt::format("memory, inference        {} weights + {} at batch {}\n", bytes(model->parameter_bytes()),
                      bytes(cost.inference_bytes(o.batch)), o.batch);
  text += fmt::format("memory, training         {} weights, gradients, moments + {} at batch {}\n",
                      bytes(4 * model->parameter_bytes()), bytes(cost.training_bytes(o.batch)), o.batch);
  if (known) {
    text += fmt::format("published weights        {}\nlicence of the weights   {}\n", known->weights, known->licence);
    if (known->top1 > 0) {
      text += fmt::format("published accuracy       {:.1f} % top-1{} on ImageNet-1K ({})\n", known->top1,
                          known->top5 > 0 ? fmt::format(", {:.1f} % top-5", known->top5) : "", known->source);
    }
  }
  print_out(text);
}

struct CheckOptions {
  std::string file;
  ModelChoice choice;
  WeightOptions weights;
};

// What a weight file is, whether it fits, and into which model.
void check(const Context& context, const CheckOptions& o) {
  const auto path = find_model_files(o.file);
  std::error_code ec;
  const auto file = std::filesystem::is_directory(path, ec) ? weights_in_folder(path) : path;
  const WeightFile weights = WeightFile::open(file);
  std::vector<std::string> models;
  std::vector<WeightReport> reports;
  const BlankWeights blank;
  if (o.choice.model.empty()) {
    models = models_of(weights);
  } else {
    reports.push_back(match_weights(*make_model(o.choice.model, parse_overrides(o.choice.set)), weights, o.weights));
    if (reports[0].complete()) models.push_back(o.choice.model);
  }
  int64_t values = 0;
  for (const WeightTensor& t : weights.tensors()) values += t.elements();
  const auto groups = weights.groups();
  if (context.globals.json) {
    ConfigWriter w = reports.empty() ? ConfigWriter() : report_json(reports[0]);
    w.set("file", weights.where());
    w.set("kind", to_string(weights.kind()));
    w.set("file_bytes", weights.file_bytes());
    w.set("file_tensors", static_cast<int64_t>(weights.tensors().size()));
    w.set("file_values", values);
    w.set("dicts", groups);
    w.set("models", models);
    print_out(w.text());
  } else {
    std::string text = fmt::format("{}: {}, {}, {} tensors of {} values\n", weights.where(), to_string(weights.kind()),
                                   format_bytes(static_cast<double>(weights.file_bytes())), weights.tensors().size(),
                                   report::format_si(static_cast<double>(values)));
    constexpr size_t kShown = 8;
    for (size_t i = 0; i < std::min(kShown, groups.size()); i++) {
      if (!groups[i].empty()) text += fmt::format("  dict           {}\n", shown_name(groups[i]));
    }
    if (groups.size() > kShown) text += fmt::format("  dict           and {} more\n", groups.size() - kShown);
    for (const auto& [key, value] : weights.facts()) {
      if (key == "arch" || key == "epoch" || key == "format" || key == "metric") {
        text += fmt::format("  {:<14} {}\n", key, shown_name(value));
      }
    }
    if (!reports.empty()) text += reports[0].text();
    for (const auto& name : models) {
      const PublishedWeights* known = published_weights(name);
      text += fmt::format("  fits           {}{}\n", name, known ? ", licence " + known->licence : "");
    }
    print_out(text);
  }
  if (!models.empty()) return;
  if (!reports.empty()) {
    throw Error(ErrorKind::kModel, {.where = weights.where(),
                                    .required = fmt::format("the weights must be those of {}", o.choice.model),
                                    .got = reports[0].faults(),
                                    .hint = reports[0].hint()});
  }
  throw Error(ErrorKind::kModel, {.where = weights.where(),
                                  .required = "weights of a model that 'aspis model list' shows",
                                  .got = "shapes that fit none of them",
                                  .hint = "--model NAME with --set, which lists the differences"});
}

}  // namespace

void add_model(CLI::App& app, Context& context) {
  CLI::App* c = add_command(app, "model", "Models and data", "List the models, show one in detail, or check weights",
                            {"aspis model list '*mamba*'", "aspis model info vision_mamba_small --set depth=12"}, {});
  c->require_subcommand(1);
  auto l = std::make_shared<Options>();
  CLI::App* list_command = add_command(*c, "list", "", "Models by name, with parameters and multiply-adds",
                                       {"aspis model list", "aspis model list 'vit*' --format csv"},
                                       [l, &context] { list(context, *l); });
  list_command->add_option("filter", l->filter, "Glob over the names")->capture_default_str();
  add_format(list_command, l->format);
  auto i = std::make_shared<Options>();
  CLI::App* info_command = add_command(*c, "info", "", "Layers, parameters, multiply-adds (scan counted), memory",
                                       {"aspis model info vision_mamba_fmnist", "aspis model info runs/first --json"},
                                       [i, &context] { info(context, *i); });
  info_command->add_option("name", i->name, "Name of a model, a run, checkpoint or model folder, or a weight file")->required();
  info_command->add_option("--set", i->set, "Change the config: key=value, repeatable");
  info_command->add_option("--batch", i->batch, "Images of a batch, for the memory")->capture_default_str()->check(CLI::Range(1, 1 << 20));
  info_command->add_option("--depth", i->depth, "Levels of the module tree that are shown")->capture_default_str();
  auto k = std::make_shared<CheckOptions>();
  CLI::App* check_command = add_command(*c, "check", "", "What a weight file is, and which model it fits",
                                        {"aspis model check mambavision_tiny_1k.pth.tar",
                                         "aspis model check weights.safetensors --model vim_tiny_patch16_224"},
                                        [k, &context] { check(context, *k); });
  check_command->add_option("file", k->file, "Weight file, model folder or name in the hub's cache")->required();
  add_choice(check_command, k->choice);
  add_weight_options(check_command, k->weights);
  info_command->add_flag("--model-config", i->config, "Print config.json and nothing else");
}

}  // namespace aspis::cli
