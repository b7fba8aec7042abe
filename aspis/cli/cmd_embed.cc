#include <fmt/format.h>

#include "aspis/base/file.h"
#include "aspis/base/utf8.h"
#include "aspis/cli/commands.h"
#include "aspis/cli/output.h"
#include "aspis/cli/pictures.h"
#include "aspis/io/npy_writer.h"

namespace aspis::cli {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string model, out, what = "features";
  PictureOptions pictures;
};

void write_csv(const fs::path& out, const std::vector<std::string>& names, const std::vector<float>& values,
               size_t width) {
  std::vector<report::Column> columns{{"file"}};
  for (size_t i = 0; i < width; i++) columns.push_back({fmt::format("f{}", i)});
  report::Table table(std::move(columns));
  for (size_t row = 0; row < names.size(); row++) {
    std::vector<report::Cell> cells{names[row]};
    for (size_t i = 0; i < width; i++) {
      cells.emplace_back(fmt::format("{}", values[row * width + i]));  // shortest text that reads back the same
    }
    table.add_row(std::move(cells));
  }
  const std::string text = table.render(report::TableFormat::kCsv);
  if (out.empty()) {
    print_out(text);
  } else {
    write_file_atomic(out, text, /*durable=*/false);
  }
}

void run(Context& context, const Options& o) {
  const std::string ending = fs::path(o.out).extension().string();
  require(o.out.empty() || ending == ".csv" || ending == ".npy" || ending == ".npz", [&] {
    return Error::Parts{.where = "--out",
                        .required = "a file that ends in .npy, .npz or .csv is needed",
                        .got = o.out,
                        .hint = "features.npz"};
  });
  train::Classifier c = train::load_classifier(o.model);
  PictureReader reader(c, o.pictures);
  install_interrupt_handler();
  std::vector<std::string> names;
  std::vector<float> values;
  for (PictureBatch batch; reader.next(batch);) {
    progress_line(context, fmt::format("{} of {} pictures", names.size(), reader.count()));
    const auto features = c.model->pool(c.model->forward_features(reader.input(batch)));
    const auto rows = float_values(o.what == "logits" ? c.model->classify(features) : features);
    values.insert(values.end(), rows.begin(), rows.end());
    for (const auto& f : batch.files) names.push_back(to_valid_utf8(f.string()));
  }
  progress_line(context, "");
  if (interrupted()) {
    context.exit_code = interrupt_exit_code();
    return;
  }
  reader.require_some("embed");
  const size_t width = names.empty() ? 0 : values.size() / names.size();
  const std::vector<int64_t> shape{static_cast<int64_t>(names.size()), static_cast<int64_t>(width)};
  if (ending == ".npy") {
    write_file_atomic(o.out, write_npy(values, shape), /*durable=*/false);
    std::string list;
    for (const auto& n : names) list += n + "\n";
    write_file_atomic(fs::path(o.out).replace_extension(".txt"), list, /*durable=*/false);
  } else if (ending == ".npz") {
    write_file_atomic(o.out, write_npz({{"features", write_npy(values, shape)}, {"files", write_npy(names)}}),
                      /*durable=*/false);
  } else {
    write_csv(o.out, names, values, width);
  }
  if (o.out.empty()) return;
  report::Table table({{"file", "file"}, {"rows", "pictures", true}, {"columns", "values each", true}});
  table.add_row({o.out, shape[0], shape[1]});
  print_table(context, table, "");
}

}  // namespace

void add_embed(CLI::App& app, Context& context) {
  auto o = std::make_shared<Options>();
  CLI::App* c = add_command(app, "embed", "Use a model", "Write the feature vector of every picture",
                            {"aspis embed photos/ --model runs/first --out features.npz",
                             "find . -name '*.jpg' | aspis embed - --model runs/first > features.csv"},
                            [o, &context] { run(context, *o); });
  add_picture_options(c, o->pictures);
  add_option(c, "--model", o->model, "Run, checkpoint or model folder, or weight file")->required();
  add_option(c, "--out", o->out,
             "File to write: .npz with features and files, .npy with the names in a .txt beside it, .csv; "
             "default: CSV to stdout");
  add_option(c, "--what", o->what, "features (what the classifier gets) or logits")
      ->check(CLI::IsMember({"features", "logits"}));
}

}  // namespace aspis::cli
