#include <fmt/format.h>

#include "aspis/base/file.h"
#include "aspis/base/utf8.h"
#include "aspis/cli/commands.h"
#include "aspis/cli/output.h"
#include "aspis/cli/pictures.h"
#include "aspis/io/npy_writer.h"

namespace aspis::cli {
namespace {

struct Options {
  std::string model, out;
  std::vector<int> stages;
  PictureOptions pictures;
};

void run(Context& context, const Options& o) {
  train::Classifier c = train::load_classifier(o.model);
  PictureReader reader(c, o.pictures);
  const auto all = c.model->stages();
  std::vector<StageInfo> wanted;
  for (const int i : o.stages) {
    const int n = static_cast<int>(all.size());
    require(i >= -n && i < n, [&] {
      return Error::Parts{.where = "--stages",
                          .required = fmt::format("stages of this model lie in {} to {}", -n, n - 1),
                          .got = std::to_string(i)};
    });
    wanted.push_back(all[static_cast<size_t>(i < 0 ? i + n : i)]);
  }
  if (o.stages.empty()) wanted = all;
  install_interrupt_handler();
  std::vector<std::vector<float>> maps(wanted.size());
  std::vector<std::vector<int64_t>> shapes(wanted.size());
  std::vector<std::string> names;
  for (PictureBatch batch; reader.next(batch);) {
    progress_line(context, fmt::format("{} of {} pictures", names.size(), reader.count()));
    const auto list = c.model->feature_maps(reader.input(batch), o.stages);
    for (size_t i = 0; i < list.size(); i++) {
      const auto rows = float_values(list[i]);
      maps[i].insert(maps[i].end(), rows.begin(), rows.end());
      shapes[i].assign(list[i].shape().begin(), list[i].shape().end());
    }
    for (const auto& f : batch.files) names.push_back(to_valid_utf8(f.string()));
  }
  progress_line(context, "");
  if (interrupted()) {
    context.exit_code = interrupt_exit_code();
    return;
  }
  reader.require_some("features");
  report::Table table({{"name", "array"},
                       {"shape", "shape"},
                       {"reduction", "pixels per step", true},
                       {"channels", "channels", true}});
  std::vector<std::pair<std::string, std::string>> arrays;
  for (size_t i = 0; i < wanted.size(); i++) {
    if (shapes[i].empty()) continue;
    shapes[i][0] = static_cast<int64_t>(names.size());
    arrays.emplace_back(wanted[i].name, write_npy(maps[i], shapes[i]));
    table.add_row(
        {wanted[i].name, fmt::format("{}", fmt::join(shapes[i], " x ")), wanted[i].reduction, wanted[i].channels});
  }
  arrays.emplace_back("files", write_npy(names));
  write_file_atomic(o.out, write_npz(arrays), /*durable=*/false);
  print_table(context, table, "");
}

}  // namespace

void add_features(CLI::App& app, Context& context) {
  auto o = std::make_shared<Options>();
  CLI::App* c = add_command(app, "features", "Use a model", "Write the feature maps of a model's stages",
                            {"aspis features photos/ --model runs/first --out maps.npz",
                             "aspis features picture.png --model runs/first --stages 0,-1 --out maps.npz --json"},
                            [o, &context] { run(context, *o); });
  add_picture_options(c, o->pictures);
  add_option(c, "--model", o->model, "Run, checkpoint or model folder, or weight file")->required();
  add_option(c, "--out", o->out,
             "File to write (.npz): one array a stage {pictures, height, width, channels}, and files")
      ->required();
  c->add_option("--stages", o->stages, "Numbers of the stages, negative from the end; default: all")
      ->delimiter(',');
}

}  // namespace aspis::cli
