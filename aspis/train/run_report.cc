#include "aspis/train/run_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "aspis/base/clock.h"
#include "aspis/base/cpu.h"
#include "aspis/base/file.h"
#include "aspis/io/config_json.h"
#include "aspis/models/vision_mamba.h"
#include "aspis/nn/scan_order.h"
#include "aspis/report/html_report.h"
#include "aspis/report/report_data.h"
#include "aspis/report/text.h"
#include "aspis/train/run_folder.h"

namespace aspis::train {
namespace {

constexpr size_t kShownImages = 40;

// Errors first, the most confident ones at the top, then right ones of as many
// classes as there is room for.
std::vector<Prediction> images_to_show(const Evaluation& e) {
  std::vector<Prediction> wrong, right;
  std::vector<int> per_class(e.confusion.size(), 0);
  for (const Prediction& p : e.predictions) {
    if (p.label != p.predicted) {
      wrong.push_back(p);
    } else if (per_class[p.label] < 2) {
      per_class[p.label]++;
      right.push_back(p);
    }
  }
  std::stable_sort(wrong.begin(), wrong.end(),
                   [](const Prediction& a, const Prediction& b) { return a.probability > b.probability; });
  const size_t errors = std::min(wrong.size(), kShownImages - std::min(right.size(), kShownImages / 2));
  std::vector<Prediction> shown(wrong.begin(), wrong.begin() + static_cast<std::ptrdiff_t>(errors));
  for (const Prediction& p : right) {
    if (shown.size() < kShownImages) shown.push_back(p);
  }
  return shown;
}

// The visiting order of each direction of a 2-D grid, by name.
void add_scan_orders(report::ReportData& d, const std::vector<int64_t>& grid, const VisionMambaConfig& c) {
  auto directions = grid_directions(2, parse_scan_order(c.scan_order));
  directions.resize(std::min<size_t>(directions.size(), static_cast<size_t>(c.directions())));
  for (const GridDirection& g : directions) {
    const std::string name = g.axes[1] == 1 ? "rows" : "columns";
    d.scans.push_back({name + (g.reverse ? ", backwards" : ", forwards"), token_order(grid, g)});
  }
}

void add_model_facts(report::ReportData& d, const ImageModel& model) {
  const ModelCost cost = model.cost();
  const auto fact = [&](const char* name, std::string value) { d.model_facts.push_back({name, std::move(value)}); };
  fact("Family", model.model_type());
  fact("Parameters", report::format_si(static_cast<double>(model.parameter_count())));
  fact("Multiply-adds per image", report::format_si(static_cast<double>(cost.macs)));
  fact("of these in scans", report::format_si(static_cast<double>(cost.scan_macs)));
  fact("Input", fmt::format("{}", fmt::join(model.input_shape(), " x ")));
  if (const auto* encoder = dynamic_cast<const PatchEncoder*>(&model)) {
    const PatchEncoderConfig& c = encoder->base_config();
    fact("Patch", fmt::format("{} x {}", c.patch_size, c.patch_size));
    fact("Tokens", std::to_string(c.tokens()));
    fact("Width", std::to_string(c.embed_dim));
    fact("Depth", std::to_string(c.depth));
  }
  if (const auto* mamba = dynamic_cast<const VisionMamba*>(&model)) {
    fact("State size", std::to_string(mamba->config().d_state));
    fact("Directions", fmt::format("{} ({})", mamba->config().directions(), mamba->config().scan_order));
    const auto grid = mamba->config().grid();
    if (grid.size() == 2) {
      d.grid_height = static_cast<int>(grid[0]);
      d.grid_width = static_cast<int>(grid[1]);
      add_scan_orders(d, grid, mamba->config());
    }
  }
}

void add_environment(report::ReportData& d, const std::filesystem::path& folder) {
  ConfigReader r(read_file(folder / "environment.json"), "environment.json", ErrorKind::kData);
  std::string version, commit, engine, isa, model;
  int64_t threads = 0, cores = 0, memory = 0;
  r.text("aspis", version);
  r.text("commit", commit);
  r.text("engine", engine);
  r.text("isa", isa);
  r.integer("threads", threads, 0, 1 << 20);
  ConfigReader cpu = r.object("cpu");
  cpu.text("model", model);
  cpu.integer("cores", cores, 0, 1 << 20);
  cpu.integer("memory_bytes", memory, 0, int64_t{1} << 60);
  d.environment = {{"Aspis", fmt::format("{} ({})", version, commit)},
                   {"Engine", engine},
                   {"Processor", fmt::format("{}, {} cores", model, cores)},
                   {"Instruction set", isa},
                   {"Threads", std::to_string(threads)},
                   {"Memory", format_bytes(static_cast<double>(memory))}};
}

}  // namespace

void write_run_report(const std::filesystem::path& folder, const ImageModel& model, const std::string& model_name,
                      const Preprocessing& preprocessing, const data::Dataset& eval_set, const TrainResult& result,
                      const std::string& command) {
  const Evaluation& e = result.evaluation;
  report::ReportData d;
  d.title = fmt::format("{} on {}", model_name, preprocessing.data);
  d.model_name = model_name;
  d.dataset = preprocessing.data;
  d.state = result.state;
  d.created = utc_timestamp();
  d.command = command;
  d.result.accuracy = e.accuracy;
  d.result.loss = e.loss;
  d.result.best_epoch = result.best_epoch;
  d.result.epochs = result.epoch;
  d.result.train_seconds = result.train_seconds;
  d.result.images_per_second = result.images_per_second;
  d.result.peak_memory_bytes = static_cast<double>(peak_memory_bytes());
  d.result.parameters = static_cast<double>(model.parameter_count());
  d.extra_results = {{"Best accuracy", fmt::format("{:.2f} %", 100 * result.best_accuracy)},
                     {"Top-5 accuracy", fmt::format("{:.2f} %", 100 * e.top5)},
                     {"Updates", std::to_string(result.step)},
                     {"Evaluation", fmt::format("{:.0f} img/s", static_cast<double>(e.samples) /
                                                                    std::max(1e-9, e.seconds))}};
  add_model_facts(d, model);
  d.dataset_facts = {{"Set", eval_set.name()},
                     {"Evaluated on", fmt::format("{} images of split {}", e.samples, data::to_string(eval_set.split()))},
                     {"Classes", std::to_string(eval_set.classes().size())},
                     {"Source", eval_set.source()}};
  add_environment(d, folder);
  d.class_names = preprocessing.classes;
  d.confusion = e.confusion;
  for (const Prediction& p : images_to_show(e)) {
    d.images.push_back({data::encode_png(eval_set.get(p.index).image), p.label, p.predicted, p.probability,
                        eval_set.sample_name(p.index)});
  }
  d.steps_per_epoch = result.epoch > 0 ? static_cast<double>(result.step) / static_cast<double>(result.epoch) : 0;
  report::set_curves(d, report::read_metrics(folder / "metrics.jsonl"));
  report::write_report(folder, d);
}

std::filesystem::path render_run_report(const std::filesystem::path& folder) {
  report::write_report(folder, report::load_run(folder));
  return folder / "report.html";
}

}  // namespace aspis::train
