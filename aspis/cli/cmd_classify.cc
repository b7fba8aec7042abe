#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "aspis/cli/commands.h"
#include "aspis/cli/output.h"
#include "aspis/cli/pictures.h"
#include "aspis/cli/profile.h"
#include "aspis/train/classifier.h"

namespace aspis::cli {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string model;
  std::vector<std::string> paths;
  int top = 3;
  int64_t batch = 64;
  std::string on_bad_sample = "error";
  std::string format;
  ProfileOptions profile;
};

void add_rows(report::Table& table, const fs::path& file, const std::vector<float>& p,
              const std::vector<std::string>& classes, int top) {
  std::vector<int> order(p.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return p[a] > p[b]; });
  for (int rank = 0; rank < std::min<int>(top, static_cast<int>(order.size())); rank++) {
    const int k = order[rank];
    table.add_row({file.string(), int64_t{rank + 1}, classes[k],
                   report::Cell(static_cast<double>(p[k]), fmt::format("{:.1f} %", 100 * p[k])), int64_t{k}});
  }
}

void run(Context& context, const Options& o) {
  train::Classifier c = train::load_classifier(o.model);
  PictureReader reader(c, {.paths = o.paths, .batch = o.batch, .on_bad_sample = o.on_bad_sample});
  report::Table table({{"file", "file"}, {"rank", "rank", true}, {"label", "class"}, {"probability", "probability", true},
                       {"index", "index", true}});
  install_interrupt_handler();
  ProfileScope profile(context, o.profile);
  for (PictureBatch batch; reader.next(batch);) {
    const auto& pre = c.preprocessing;
    const auto all = train::predict(*c.model, batch.values, batch.size(), pre.height, pre.width, pre.channels);
    for (size_t i = 0; i < batch.files.size(); i++) add_rows(table, batch.files[i], all[i], pre.classes, o.top);
  }
  if (interrupted()) {
    context.exit_code = interrupt_exit_code();
    return;
  }
  reader.require_some("classify");
  print_table(context, table, o.format);
  profile.finish(!o.format.empty());
}

}  // namespace

void add_classify(CLI::App& app, Context& context) {
  auto o = std::make_shared<Options>();
  CLI::App* c = add_command(app, "classify", "Use a model", "Say what is in pictures",
                            {"aspis classify picture.png --model runs/first",
                             "aspis classify photos/ --model runs/first --top 1 --format csv",
                             "find . -name '*.jpg' | aspis classify - --model runs/first --json"},
                            [o, &context] { run(context, *o); });
  c->add_option("paths", o->paths, "Pictures (PNG, JPEG), folders, or - for a list of files on stdin")->required();
  add_option(c, "--model", o->model, "Run, checkpoint or model folder, weight file, or name in the hub's cache")->required();
  add_option(c, "--top", o->top, "Classes shown of each picture")->check(CLI::Range(1, 100000));
  add_option(c, "--batch", o->batch, "Pictures worked on at a time")->check(CLI::Range(1, 65536));
  add_option(c, "--on-bad-sample", o->on_bad_sample, "A file that is no picture: error or skip");
  add_format(c, o->format);
  o->profile.skip = 0;  // often there is one batch only
  add_profile_options(c, o->profile);
}

}  // namespace aspis::cli
