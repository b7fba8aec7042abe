#include <fmt/format.h>
#include <mlx/ops.h>

#include <algorithm>

#include "aspis/cli/commands.h"
#include "aspis/cli/output.h"
#include "aspis/cli/pictures.h"
#include "aspis/data/heat_map.h"
#include "aspis/models/scan_attention.h"

namespace aspis::cli {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string model, out, method = "both", target;
  PictureOptions pictures;
};

// Number of the class that is explained: by name, by number, or the likeliest.
int64_t target_of(const Options& o, const train::Classifier& c, const std::vector<float>& p) {
  if (o.target.empty()) return std::max_element(p.begin(), p.end()) - p.begin();
  const auto& classes = c.preprocessing.classes;
  const auto named = std::find(classes.begin(), classes.end(), o.target);
  if (named != classes.end()) return named - classes.begin();
  const bool number = o.target.find_first_not_of("0123456789") == std::string::npos && o.target.size() < 9;
  const int64_t k = number ? std::stoll(o.target) : -1;
  if (k >= 0 && k < static_cast<int64_t>(classes.size())) return k;
  throw Error(ErrorKind::kUsage,
              {.where = "--class",
               .required = fmt::format("a class of the model, or its number below {}", classes.size()),
               .got = fmt::format("'{}'", o.target),
               .hint = nearest_word(o.target, classes)});
}

// A name for the overlay of a picture that no other picture has taken.
fs::path free_name(const fs::path& folder, const fs::path& file, const std::string& method,
                   std::vector<fs::path>& taken) {
  const std::string stem = file.stem().string();
  fs::path path = folder / fmt::format("{}.{}.png", stem, method);
  for (int n = 2; std::find(taken.begin(), taken.end(), path) != taken.end(); n++) {
    path = folder / fmt::format("{}-{}.{}.png", stem, n, method);
  }
  taken.push_back(path);
  return path;
}

void run(Context& context, const Options& o) {
  train::Classifier c = train::load_classifier(o.model);
  PictureOptions pictures = o.pictures;
  pictures.batch = 1;
  PictureReader reader(c, pictures);
  std::error_code ec;
  fs::create_directories(o.out, ec);
  if (ec) {
    throw Error(ErrorKind::kWrite,
                {.where = o.out, .required = "a folder for the overlays is needed", .got = ec.message()});
  }
  report::Table table({{"file", "file"},
                       {"label", "class"},
                       {"probability", "probability", true},
                       {"method", "method"},
                       {"overlay", "overlay"}});
  install_interrupt_handler();
  std::vector<fs::path> taken;
  for (PictureBatch batch; reader.next(batch);) {
    const auto& pre = c.preprocessing;
    const auto image = reader.input(batch);
    const auto p = train::predict(*c.model, batch.values, 1, pre.height, pre.width, pre.channels)[0];
    const int64_t k = target_of(o, c, p);
    const auto add = [&](const char* method, const std::vector<float>& map, int64_t height, int64_t width) {
      const fs::path path = free_name(o.out, batch.files[0], method, taken);
      data::write_png(
          path, data::overlay_heat_map(batch.prepared[0], map, static_cast<int>(height), static_cast<int>(width)));
      table.add_row({batch.files[0].string(), pre.classes[static_cast<size_t>(k)],
                     report::Cell(static_cast<double>(p[static_cast<size_t>(k)]),
                                  fmt::format("{:.1f} %", 100 * p[static_cast<size_t>(k)])),
                     method, path.string()});
    };
    if (o.method != "scan") add("gradient", gradient_times_input(*c.model, image, k), pre.height, pre.width);
    if (o.method == "gradient") continue;
    try {
      const PatchRelevance r = scan_relevance(*c.model, image);
      add("scan", r.values, r.height, r.width);
    } catch (const Error& e) {
      // "both" means what the model has.
      if (o.method == "scan" || e.kind() != ErrorKind::kUsage) throw;
      if (taken.size() == 1) print_note(context, fmt::format("note: {}\n", e.what()));
    }
  }
  if (interrupted()) {
    context.exit_code = interrupt_exit_code();
    return;
  }
  reader.require_some("explain");
  print_table(context, table, "");
}

}  // namespace

void add_explain(CLI::App& app, Context& context) {
  auto o = std::make_shared<Options>();
  CLI::App* c =
      add_command(app, "explain", "Look inside", "Show what a classifier looked at, laid over the picture",
                  {"aspis explain picture.png --model runs/first --out explained",
                   "aspis explain photos/ --model runs/first --method scan --class circle --out explained"},
                  [o, &context] { run(context, *o); });
  add_picture_options(c, o->pictures);
  add_option(c, "--model", o->model, "Run, checkpoint or model folder, or weight file")->required();
  add_option(c, "--out", o->out, "Folder for the overlays, NAME.gradient.png and NAME.scan.png")->required();
  add_option(
      c, "--method", o->method,
      "gradient (gradient x input, any model), scan (what the scans let through, VisionMamba and Vim), both")
      ->check(CLI::IsMember({"gradient", "scan", "both"}));
  add_option(c, "--class", o->target, "Class that is explained, by name or number; default: the likeliest");
}

}  // namespace aspis::cli
