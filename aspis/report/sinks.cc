#include "aspis/report/sinks.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "aspis/base/clock.h"
#include "aspis/base/error.h"
#include "aspis/base/file.h"
#include "aspis/base/utf8.h"
#include "aspis/report/text.h"

namespace aspis::report {
namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

constexpr std::array<const char*, 9> kKnownColumns = {kTrainLoss, kTrainAccuracy, kLearningRate,
                                                      kGradNorm,  kThroughput,    kMemory,
                                                      kValLoss,   kValAccuracy,   kEpochSeconds};

Json json_number(double value) {
  if (std::isfinite(value)) return value;
  return format_exact(value);
}

// A number, or one of the words that stand for what JSON cannot say.
bool parse_number(const Json& j, double& out) {
  if (j.is_number()) {
    out = j.get<double>();
    return true;
  }
  if (!j.is_string()) return false;
  const auto& s = j.get_ref<const std::string&>();
  if (s == "nan") {
    out = std::nan("");
  } else if (s == "inf") {
    out = INFINITY;
  } else if (s == "-inf") {
    out = -INFINITY;
  } else {
    return false;
  }
  return true;
}

std::vector<std::string_view> lines_of(std::string_view text) {
  std::vector<std::string_view> lines;
  while (!text.empty()) {
    const size_t end = text.find('\n');
    // A line without its end was cut by a crash.
    if (end == std::string_view::npos) break;
    lines.push_back(text.substr(0, end));
    text.remove_prefix(end + 1);
  }
  return lines;
}

// Keeps the leading lines for which `keep` says yes; rewrites only if needed.
template <typename Keep>
std::string filtered_file(const fs::path& path, Keep keep) {
  const std::string old = read_file(path);
  std::string kept;
  for (const std::string_view line : lines_of(old)) {
    if (keep(line)) kept.append(line).append("\n");
  }
  if (kept != old) write_file_atomic(path, kept);
  return kept;
}

class JsonlSink : public MetricsSink {
 public:
  explicit JsonlSink(fs::path path) : path_(std::move(path)) {}

  void begin(const SinkStart& start) override {
    file_.reset();
    if (start.resume && fs::exists(path_)) {
      filtered_file(path_, [&](std::string_view line) {
        const Json j = Json::parse(line, nullptr, false);
        return j.is_object() && j.contains("step") && j["step"].is_number_integer() &&
               j["step"].get<int64_t>() <= start.step;
      });
    } else {
      write_file_atomic(path_, "");
    }
    file_ = std::make_unique<AppendFile>(path_);
  }

  void scalars(int64_t step, double epoch, const Scalars& values) override {
    Json j{{"step", step}, {"epoch", json_number(epoch)}, {"time", utc_timestamp()}};
    for (const auto& [name, value] : values) j[to_valid_utf8(name)] = json_number(value);
    write(j);
  }

  void text(int64_t step, std::string_view tag, std::string_view text) override {
    Json j{{"step", step}, {"time", utc_timestamp()}};
    j["text"][to_valid_utf8(tag)] = to_valid_utf8(text);
    write(j);
  }

  void end() override { file_.reset(); }

 private:
  void write(const Json& j) {
    if (file_) file_->write(j.dump() + "\n");
  }

  fs::path path_;
  std::unique_ptr<AppendFile> file_;
};

// The fields of a CSV line as this sink writes it: names may be quoted, but no
// field holds a line end.
std::vector<std::string> split_csv(std::string_view line) {
  std::vector<std::string> fields(1);
  bool quoted = false;
  for (size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (quoted) {
      if (c != '"') {
        fields.back() += c;
      } else if (i + 1 < line.size() && line[i + 1] == '"') {
        fields.back() += line[++i];
      } else {
        quoted = false;
      }
    } else if (c == '"') {
      quoted = true;
    } else if (c == ',') {
      fields.emplace_back();
    } else {
      fields.back() += c;
    }
  }
  return fields;
}

class CsvSink : public MetricsSink {
 public:
  explicit CsvSink(fs::path path) : path_(std::move(path)) {}

  void begin(const SinkStart& start) override {
    file_.reset();
    columns_ = {"step", "epoch", "time"};
    columns_.insert(columns_.end(), kKnownColumns.begin(), kKnownColumns.end());
    bool found = false;
    if (start.resume && fs::exists(path_)) {
      size_t width = 0;
      filtered_file(path_, [&](std::string_view line) {
        const auto fields = split_csv(line);
        if (width == 0) {
          found = fields.size() >= 3 && fields[0] == "step";
          if (found) columns_ = fields;
          width = fields.size();
          return found;
        }
        char* end = nullptr;
        const long long step = std::strtoll(fields[0].c_str(), &end, 10);
        return found && fields.size() == width && end != fields[0].c_str() && *end == '\0' && step <= start.step;
      });
    }
    if (!found) write_file_atomic(path_, header());
    file_ = std::make_unique<AppendFile>(path_);
  }

  void scalars(int64_t step, double epoch, const Scalars& values) override {
    if (!file_) return;
    add_new_columns(values);
    std::string row = std::to_string(step) + "," + format_exact(epoch) + "," + utc_timestamp();
    for (size_t j = 3; j < columns_.size(); ++j) {
      row += ",";
      const auto it = values.find(columns_[j]);
      if (it != values.end()) row += format_exact(it->second);
    }
    file_->write(row + "\n");
  }

  void end() override { file_.reset(); }

 private:
  std::string header() const {
    std::string out;
    for (const auto& name : columns_) out += (out.empty() ? "" : ",") + csv_field(name);
    return out + "\n";
  }

  void add_new_columns(const Scalars& values) {
    const size_t before = columns_.size();
    for (const auto& entry : values) {
      if (std::find(columns_.begin(), columns_.end(), entry.first) == columns_.end())
        columns_.push_back(entry.first);
    }
    if (columns_.size() == before) return;
    const std::string old = read_file(path_);
    const std::string filler(columns_.size() - before, ',');
    std::string text = header();
    bool first = true;
    for (const std::string_view line : lines_of(old)) {
      if (!first) text.append(line).append(filler).append("\n");
      first = false;
    }
    file_.reset();
    write_file_atomic(path_, text);
    file_ = std::make_unique<AppendFile>(path_);
  }

  fs::path path_;
  std::vector<std::string> columns_;
  std::unique_ptr<AppendFile> file_;
};

[[noreturn]] void fail_status(const fs::path& path) {
  throw Error(ErrorKind::kData, {.where = path.string(),
                                 .required = "the file must be the status of a run",
                                 .got = "something else",
                                 .hint = "give the folder of a run"});
}

}  // namespace

std::unique_ptr<MetricsSink> jsonl_sink(fs::path path) { return std::make_unique<JsonlSink>(std::move(path)); }

std::unique_ptr<MetricsSink> csv_sink(fs::path path) { return std::make_unique<CsvSink>(std::move(path)); }

void SinkGroup::add(std::unique_ptr<MetricsSink> sink) { sinks_.push_back(std::move(sink)); }

void SinkGroup::begin(const SinkStart& start) {
  for (auto& s : sinks_) s->begin(start);
}

void SinkGroup::scalars(int64_t step, double epoch, const Scalars& values) {
  for (auto& s : sinks_) s->scalars(step, epoch, values);
}

void SinkGroup::image(int64_t step, std::string_view tag, std::string_view png) {
  for (auto& s : sinks_) s->image(step, tag, png);
}

void SinkGroup::text(int64_t step, std::string_view tag, std::string_view text) {
  for (auto& s : sinks_) s->text(step, tag, text);
}

void SinkGroup::end() {
  for (auto& s : sinks_) s->end();
}

std::unique_ptr<MetricsSink> run_folder_sinks(const fs::path& run_folder) {
  auto group = std::make_unique<SinkGroup>();
  group->add(jsonl_sink(run_folder / "metrics.jsonl"));
  group->add(csv_sink(run_folder / "metrics.csv"));
  group->add(tensorboard_sink(run_folder));
  return group;
}

std::vector<MetricRecord> read_metrics(const fs::path& path) {
  const std::string text = read_file(path);
  const auto lines = lines_of(text);
  std::vector<MetricRecord> records;
  for (size_t i = 0; i < lines.size(); ++i) {
    const Json j = Json::parse(lines[i], nullptr, false);
    const bool ok = j.is_object() && j.contains("step") && j["step"].is_number_integer();
    if (!ok && i + 1 == lines.size()) break;
    if (!ok) {
      throw Error(ErrorKind::kData, {.where = path.string() + ":" + std::to_string(i + 1),
                                     .required = "each line must be a JSON object with a step",
                                     .got = "something else",
                                     .hint = {}});
    }
    if (j.contains("text")) continue;
    MetricRecord r;
    r.step = j["step"].get<int64_t>();
    for (const auto& [name, value] : j.items()) {
      double number = 0;
      if (name == "step" || name == "time" || !parse_number(value, number)) continue;
      if (name == "epoch") {
        r.epoch = number;
      } else {
        r.values[name] = number;
      }
    }
    records.push_back(std::move(r));
  }
  return records;
}

void write_status(const fs::path& path, const RunStatus& status) {
  Json j{{"state", status.state}, {"reason", to_valid_utf8(status.reason)},
         {"step", status.step},   {"steps", status.steps},
         {"epoch", status.epoch}, {"epochs", status.epochs}};
  for (const auto& [name, value] : status.metrics) j["metrics"][to_valid_utf8(name)] = json_number(value);
  for (const auto& [name, value] : status.info) j["info"][to_valid_utf8(name)] = to_valid_utf8(value);
  j["updated"] = utc_timestamp();
  j["pid"] = static_cast<int64_t>(::getpid());
  write_file_atomic(path, j.dump(2) + "\n", false);
}

RunStatus read_status(const fs::path& path) {
  const Json j = Json::parse(read_file(path), nullptr, false);
  if (!j.is_object()) fail_status(path);
  RunStatus s;
  try {
    s.state = j.at("state").get<std::string>();
    s.reason = j.value("reason", std::string());
    s.step = j.value("step", int64_t{0});
    s.steps = j.value("steps", int64_t{0});
    s.epoch = j.value("epoch", int64_t{0});
    s.epochs = j.value("epochs", int64_t{0});
    if (j.contains("metrics")) {
      for (const auto& [name, value] : j["metrics"].items()) {
        double number = 0;
        if (parse_number(value, number)) s.metrics[name] = number;
      }
    }
    if (j.contains("info")) {
      for (const auto& [name, value] : j["info"].items()) s.info[name] = value.get<std::string>();
    }
  } catch (const Json::exception&) {
    fail_status(path);
  }
  return s;
}

}  // namespace aspis::report
