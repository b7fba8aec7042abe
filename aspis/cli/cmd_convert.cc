#include <fmt/format.h>

#include "aspis/base/file.h"
#include "aspis/cli/commands.h"
#include "aspis/cli/output.h"
#include "aspis/cli/weights.h"
#include "aspis/io/array_io.h"
#include "aspis/io/config_json.h"
#include "aspis/report/text.h"
#include "aspis/train/classifier.h"

namespace aspis::cli {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string source, out;
  ModelChoice choice;
  WeightOptions weights;
};

/// README.md of a model folder, with the head that the model hub reads.
std::string card(const Pretrained& p, const std::string& model, const std::string& hash) {
  const PublishedWeights* known = published_weights(p.name);
  const std::string licence = known ? known->licence : "unknown: that of the weights it was made from";
  std::string text = fmt::format(
      "---\nlibrary_name: aspis\nlicense: other\nlicense_name: \"{}\"\npipeline_tag: "
      "image-classification\n---\n\n# {}\n\n",
      licence, model);
  text +=
      fmt::format("{} of {}, converted by `aspis convert`.\n\n", p.model->type_name(), p.file.filename().string());
  text += fmt::format("- Parameters: {}\n", p.model->parameter_count());
  text += fmt::format("- Licence of the weights: {}\n", licence);
  if (known) text += fmt::format("- Published as: {}\n", known->weights);
  if (known && known->top1 > 0) {
    text += fmt::format("- Published accuracy on ImageNet-1K: {:.1f} % top-1", known->top1);
    if (known->top5 > 0) text += fmt::format(", {:.1f} % top-5", known->top5);
    text += fmt::format(" ({}); not measured here\n", known->source);
  }
  text += fmt::format("- Source file: {}, SHA-256 {}\n", p.report.kind, hash);
  for (const auto& change : p.report.adapted) text += "- Changed: " + change + "\n";
  if (!p.report.complete()) text += fmt::format("- Incomplete: {}\n", p.report.faults());
  text += "\n```sh\naspis classify picture.jpg --model <this folder>\n```\n";
  return text;
}

void run(const Context& context, const Options& o) {
  std::error_code ec;
  const fs::path out = o.out;
  if (fs::exists(out, ec) && !(fs::is_directory(out, ec) && fs::is_empty(out, ec))) {
    throw Error(ErrorKind::kUsage, {.where = "--out",
                                    .required = "a folder that does not exist yet, or an empty one",
                                    .got = "'" + o.out + "'"});
  }
  const Pretrained p = open_weights(context, o.source, o.choice, o.weights);
  const std::string model = p.name.empty() ? p.model->model_type() : p.name;
  train::Preprocessing pre = train::published_preprocessing(*p.model, p.name);
  if (p.preprocessor.find("\"classes\"") != std::string::npos) {
    pre = train::Preprocessing::from_json(p.preprocessor, "preprocessor_config.json");
  }
  fs::create_directories(out, ec);
  if (ec) throw_write_error(out, "mkdir", ec.value());
  write_file_atomic(out / "model.safetensors",
                    dump_arrays(p.model->state(), {{"format", "mlx"}, {"model", model}, {"writer", "aspis"}}));
  write_file_atomic(out / "config.json", p.model->config_json());
  write_file_atomic(out / "preprocessor_config.json", pre.to_json());
  write_file_atomic(out / "README.md", card(p, model, sha256_hex(read_file(p.file, ErrorKind::kModel))));
  if (context.globals.json) {
    ConfigWriter w = report_json(p.report);
    w.set("name", model);
    w.set("out", o.out);
    print_out(w.text());
    return;
  }
  const PublishedWeights* known = published_weights(p.name);
  print_out(fmt::format("{}: {} tensors, {} parameters\nlicence of the weights: {}\n{}\n", model, p.report.fitting,
                        p.model->parameter_count(), known ? known->licence : "unknown; see where they come from",
                        o.out));
}

}  // namespace

void add_convert(CLI::App& app, Context& context) {
  auto o = std::make_shared<Options>();
  CLI::App* c = add_command(
      app, "convert", "Models and data", "Turn published weights into a model folder",
      {"aspis convert mambavision_tiny_1k.pth.tar --model mamba_vision_T -o models/T",
       "aspis convert nvidia/MambaVision-T-1K -o models/T",
       "aspis convert vim.pth --model vim_tiny_patch16_224 --set img_size=384 --adapt -o models/vim384"},
      [o, &context] { run(context, *o); });
  c->add_option("source", o->source, "Weight file, model folder or name in the hub's cache")->required();
  add_option(c, "-o,--out", o->out, "Folder to make")->required();
  add_choice(c, o->choice);
  add_weight_options(c, o->weights);
}

}  // namespace aspis::cli
