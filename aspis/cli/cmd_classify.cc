#include <fmt/format.h>

#include <algorithm>
#include <iostream>
#include <numeric>

#include "aspis/cli/commands.h"
#include "aspis/cli/output.h"
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

bool looks_like_image(const fs::path& p) {
  std::string ext = p.extension().string();
  std::transform(ext.begin(), ext.end(), ext.begin(), [](unsigned char ch) { return static_cast<char>(std::tolower(ch)); });
  return ext == ".png" || ext == ".jpg" || ext == ".jpeg";
}

// The files named, those in the folders named, and with "-" one per line of stdin.
std::vector<fs::path> list_files(const std::vector<std::string>& paths) {
  std::vector<fs::path> files;
  for (const auto& p : paths) {
    if (p == "-") {
      for (std::string line; std::getline(std::cin, line);) {
        if (!line.empty()) files.emplace_back(line);
      }
      continue;
    }
    std::error_code ec;
    if (!fs::exists(p, ec)) {
      throw Error(ErrorKind::kData, {.where = p, .required = "a picture or a folder of pictures is needed", .got = "nothing there"});
    }
    if (!fs::is_directory(p, ec)) {
      files.emplace_back(p);
      continue;
    }
    const size_t before = files.size();
    for (const auto& entry : fs::recursive_directory_iterator(p, ec)) {
      if (entry.is_regular_file(ec) && looks_like_image(entry.path())) files.push_back(entry.path());
    }
    if (files.size() == before) {
      throw Error(ErrorKind::kData, {.where = p, .required = "a folder with .png or .jpg files is needed", .got = "none in it"});
    }
    std::sort(files.begin() + static_cast<std::ptrdiff_t>(before), files.end());
  }
  return files;
}

// The transform of a classifier without a data set behind it.
class NoDataset : public data::Dataset {
 public:
  explicit NoDataset(const train::Preprocessing& p)
      : Dataset("pictures", data::Split::kTest, p.classes, {0, 0, 0}, "command line") {}
  int64_t size() const override { return 0; }
  data::Sample get(int64_t index) const override {
    check_index(index);
    return {};
  }
  int32_t label(int64_t) const override { return 0; }
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
  const auto files = list_files(o.paths);
  const NoDataset none(c.preprocessing);
  const data::Transform transform(c.preprocessing.transform(), none);
  const bool skip = data::parse_on_bad_sample(o.on_bad_sample) == data::OnBadSample::kSkip;
  report::Table table({{"file", "file"}, {"rank", "rank", true}, {"label", "class"}, {"probability", "probability", true},
                       {"index", "index", true}});
  install_interrupt_handler();
  ProfileScope profile(context, o.profile);
  const int64_t values = transform.values();
  int64_t skipped = 0;
  for (size_t first = 0; first < files.size() && !interrupted();) {
    std::vector<float> batch;
    std::vector<fs::path> names;
    for (; first < files.size() && static_cast<int64_t>(names.size()) < o.batch; first++) {
      try {
        const data::Image image = transform.prepare(data::read_image(files[first]));
        batch.resize(batch.size() + static_cast<size_t>(values));
        transform.write(image, batch.data() + static_cast<int64_t>(names.size()) * values);
        names.push_back(files[first]);
      } catch (const Error& e) {
        if (!skip) throw;
        skipped++;
        print_err(fmt::format("warning: {}\n", e.what()));
      }
    }
    if (names.empty()) break;
    const auto& pre = c.preprocessing;
    const auto all = train::predict(*c.model, batch, static_cast<int64_t>(names.size()), pre.height, pre.width, pre.channels);
    for (size_t i = 0; i < names.size(); i++) add_rows(table, names[i], all[i], pre.classes, o.top);
  }
  if (interrupted()) {
    context.exit_code = interrupt_exit_code();
    return;
  }
  if (skipped > 0 && skipped == static_cast<int64_t>(files.size())) {
    throw Error(ErrorKind::kData, {.where = "classify", .required = "at least one readable picture is needed",
                                   .got = fmt::format("{} damaged ones", skipped)});
  }
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
  add_option(c, "--model", o->model, "Run folder or checkpoint folder")->required();
  add_option(c, "--top", o->top, "Classes shown of each picture")->check(CLI::Range(1, 100000));
  add_option(c, "--batch", o->batch, "Pictures worked on at a time")->check(CLI::Range(1, 65536));
  add_option(c, "--on-bad-sample", o->on_bad_sample, "A file that is no picture: error or skip");
  add_format(c, o->format);
  o->profile.skip = 0;  // often there is one batch only
  add_profile_options(c, o->profile);
}

}  // namespace aspis::cli
