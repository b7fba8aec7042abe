#include <fmt/format.h>

#include "aspis/base/clock.h"
#include "aspis/cli/commands.h"
#include "aspis/cli/output.h"
#include "aspis/io/config_json.h"
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

std::unique_ptr<ImageModel> open_model(const Options& o, std::string& name) {
  std::error_code ec;
  if (std::filesystem::exists(o.name, ec)) {
    train::Classifier c = train::load_classifier(o.name);
    name = c.model_name + " from " + c.folder.string();
    return std::move(c.model);
  }
  Overrides overrides;
  for (const auto& s : o.set) {
    const size_t eq = s.find('=');
    if (eq == std::string::npos) {
      throw Error(ErrorKind::kUsage, {.where = "--set", .required = "a change of the config is key=value", .got = s, .hint = "--set depth=2"});
    }
    overrides.emplace_back(s.substr(0, eq), s.substr(eq + 1));
  }
  name = o.name;
  const BlankWeights blank;
  return make_model(o.name, overrides);
}

void info(const Context& context, const Options& o) {
  std::string name;
  const auto model = open_model(o, name);
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
  print_out(text);
}

}  // namespace

void add_model(CLI::App& app, Context& context) {
  CLI::App* c = add_command(app, "model", "Models and data", "List the models, or show one in detail",
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
  info_command->add_option("name", i->name, "Name of a model, or a run or checkpoint folder")->required();
  info_command->add_option("--set", i->set, "Change the config: key=value, repeatable");
  info_command->add_option("--batch", i->batch, "Images of a batch, for the memory")->capture_default_str()->check(CLI::Range(1, 1 << 20));
  info_command->add_option("--depth", i->depth, "Levels of the module tree that are shown")->capture_default_str();
  info_command->add_flag("--model-config", i->config, "Print config.json and nothing else");
}

}  // namespace aspis::cli
