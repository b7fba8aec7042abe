#include <fmt/format.h>

#include "aspis/base/parallel.h"
#include "aspis/cli/commands.h"
#include "aspis/cli/output.h"
#include "aspis/base/file.h"
#include "aspis/data/dataset.h"
#include "aspis/io/config_json.h"

namespace aspis::cli {
namespace {

struct Options {
  std::string spec, split = "train", data_dir, format, export_folder;
  int64_t export_count = 10;
};

void list(const Context& context, const Options& o) {
  data::DatasetOptions options;
  options.data_dir = o.data_dir;
  report::Table table({{"name", "data set"}, {"available", "available"}, {"where", "where"}, {"description", "description"}});
  for (const auto& d : data::list_datasets(options)) {
    table.add_row({d.name, d.available ? "yes" : "no", d.where, d.description});
  }
  print_table(context, table, o.format);
}

std::string numbers(const std::vector<float>& values) {
  std::string text;
  for (const float v : values) text += fmt::format("{}{:.4f}", text.empty() ? "" : " ", v);
  return text;
}

void inspect(Context& context, const Options& o) {
  data::DatasetOptions options;
  options.data_dir = o.data_dir;
  const auto set = data::open_dataset(o.spec, data::parse_split(o.split), options);
  const auto r = data::inspect(*set, available_cores());
  if (context.globals.json) {
    ConfigWriter w, counts;
    w.set("name", set->name());
    w.set("split", data::to_string(set->split()));
    w.set("source", set->source());
    w.set("samples", r.samples);
    for (size_t i = 0; i < r.per_class.size(); i++) counts.set(set->classes()[i], r.per_class[i]);
    w.set("per_class", counts);
    w.set("smallest", std::vector<int64_t>{r.smallest.height, r.smallest.width, r.smallest.channels});
    w.set("largest", std::vector<int64_t>{r.largest.height, r.largest.width, r.largest.channels});
    w.set("mean", std::vector<double>(r.stats.mean.begin(), r.stats.mean.end()));
    w.set("std", std::vector<double>(r.stats.std.begin(), r.stats.std.end()));
    std::vector<std::string> damaged;
    for (const auto& d : r.damaged) damaged.push_back(d.name);
    w.set("damaged", damaged);
    print_out(w.text());
  } else {
    std::string text = set->describe() + "\n";
    const auto size = [](const data::Geometry& g) { return fmt::format("{} x {} x {}", g.height, g.width, g.channels); };
    text += fmt::format("size       {}{}\n", size(r.smallest), r.smallest == r.largest ? "" : " to " + size(r.largest));
    text += fmt::format("mean, std  {}, {}\n", numbers(r.stats.mean), numbers(r.stats.std));
    print_out(text);
    report::Table table({{"class", "class"}, {"images", "images", true}});
    for (size_t i = 0; i < r.per_class.size(); i++) table.add_row({set->classes()[i], r.per_class[i]});
    print_table(context, table, "");
    for (const auto& d : r.damaged) print_err("damaged: " + d.message + "\n");
  }
  if (!r.damaged.empty()) context.exit_code = static_cast<int>(ErrorKind::kData);
}

// Writes pictures as PNG, for looking at them and for `aspis classify`.
void export_images(Context& context, const Options& o) {
  data::DatasetOptions options;
  options.data_dir = o.data_dir;
  const auto set = data::open_dataset(o.spec, data::parse_split(o.split), options);
  std::error_code ec;
  std::filesystem::create_directories(o.export_folder, ec);
  std::string files;
  for (int64_t i = 0; i < std::min(o.export_count, set->size()); i++) {
    std::string label = set->classes()[set->label(i)];
    for (char& ch : label) {
      if (!std::isalnum(static_cast<unsigned char>(ch))) ch = '-';
    }
    const auto path = std::filesystem::path(o.export_folder) / fmt::format("{:05d}_{}.png", i, label);
    write_file_atomic(path, data::encode_png(set->get(i).image), false);
    files += path.string() + "\n";
  }
  if (!context.globals.quiet) print_out(files);
}

}  // namespace

void add_data(CLI::App& app, Context& context) {
  CLI::App* c = add_command(app, "data", "Models and data", "List data sets, inspect one, write its pictures as files",
                            {"aspis data list", "aspis data inspect fashion-mnist --split test"}, {});
  c->require_subcommand(1);
  auto l = std::make_shared<Options>();
  CLI::App* list_command = add_command(*c, "list", "", "Data sets by name and whether they are there",
                                       {"aspis data list", "aspis data list --json"}, [l, &context] { list(context, *l); });
  list_command->add_option("--data-dir", l->data_dir, "Folder that holds data sets by name");
  add_format(list_command, l->format);
  auto i = std::make_shared<Options>();
  CLI::App* inspect_command = add_command(*c, "inspect", "", "Read every sample: counts, sizes, mean, damaged files",
                                          {"aspis data inspect fashion-mnist", "aspis data inspect folder:pets --split val --json"},
                                          [i, &context] { inspect(context, *i); });
  inspect_command->add_option("data", i->spec, "fashion-mnist, mnist, shapes, folder:PATH or idx:PATH")->required();
  inspect_command->add_option("--split", i->split, "train, val or test")->capture_default_str();
  inspect_command->add_option("--data-dir", i->data_dir, "Folder that holds data sets by name");
  auto e = std::make_shared<Options>();
  e->split = "test";
  CLI::App* export_command = add_command(*c, "export", "", "Write the first pictures of a split as PNG files",
                                         {"aspis data export fashion-mnist --to pictures", "aspis data export shapes --count 50 --to pictures"},
                                         [e, &context] { export_images(context, *e); });
  export_command->add_option("data", e->spec, "fashion-mnist, mnist, shapes, folder:PATH or idx:PATH")->required();
  export_command->add_option("--to", e->export_folder, "Folder for the files")->required();
  export_command->add_option("--count", e->export_count, "How many")->capture_default_str()->check(CLI::Range(1, 1 << 30));
  export_command->add_option("--split", e->split, "train, val or test")->capture_default_str();
  export_command->add_option("--data-dir", e->data_dir, "Folder that holds data sets by name");
}

}  // namespace aspis::cli
