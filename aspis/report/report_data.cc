#include "aspis/report/report_data.h"

#include <cmath>
#include <functional>
#include <nlohmann/json.hpp>

#include "aspis/base/error.h"
#include "aspis/base/file.h"
#include "aspis/base/utf8.h"
#include "aspis/report/html_report.h"
#include "aspis/report/text.h"

namespace aspis::report {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kVersion = 1;
constexpr int64_t kLargestGrid = 1 << 22;

Json number(double value) {
  if (std::isfinite(value)) return value;
  return nullptr;
}

double as_number(const Json& j) { return j.is_null() ? kAbsent : j.get<double>(); }

Json numbers(const std::vector<double>& values) {
  Json j = Json::array();
  for (const double v : values) j.push_back(number(v));
  return j;
}

Json facts(const std::vector<ReportFact>& list) {
  Json j = Json::array();
  for (const auto& f : list) j.push_back({to_valid_utf8(f.name), to_valid_utf8(f.value)});
  return j;
}

Json series(const ReportSeries& s) { return {{"step", numbers(s.step)}, {"value", numbers(s.value)}}; }

// Reads a member if it is there.
template <typename T, typename Read>
void read(const Json& j, const char* key, T& out, Read read_value) {
  const auto it = j.find(key);
  if (it != j.end() && !it->is_null()) out = read_value(*it);
}

template <typename T>
void read(const Json& j, const char* key, T& out) {
  read(j, key, out, [](const Json& v) { return v.get<T>(); });
}

std::vector<ReportFact> as_facts(const Json& j) {
  std::vector<ReportFact> list;
  for (const Json& f : j) list.push_back({f.at(0).get<std::string>(), f.at(1).get<std::string>()});
  return list;
}

ReportSeries as_series(const Json& j) {
  ReportSeries s;
  for (const Json& v : j.at("step")) s.step.push_back(as_number(v));
  for (const Json& v : j.at("value")) s.value.push_back(as_number(v));
  return s;
}

ReportResult as_result(const Json& j) {
  ReportResult r;
  read(j, "accuracy", r.accuracy);
  read(j, "loss", r.loss);
  read(j, "best_epoch", r.best_epoch);
  read(j, "epochs", r.epochs);
  read(j, "train_seconds", r.train_seconds);
  read(j, "images_per_second", r.images_per_second);
  read(j, "peak_memory_bytes", r.peak_memory_bytes);
  read(j, "parameters", r.parameters);
  return r;
}

struct CurveName {
  const char* key;
  ReportSeries ReportData::*member;
  const char* metric;
};

constexpr CurveName kCurves[] = {
    {"train_loss", &ReportData::train_loss, kTrainLoss},
    {"train_accuracy", &ReportData::train_accuracy, kTrainAccuracy},
    {"val_loss", &ReportData::val_loss, kValLoss},
    {"val_accuracy", &ReportData::val_accuracy, kValAccuracy},
    {"learning_rate", &ReportData::learning_rate, kLearningRate},
    {"grad_norm", &ReportData::grad_norm, kGradNorm},
    {"throughput", &ReportData::throughput, kThroughput},
};

struct TextName {
  const char* key;
  std::string ReportData::*member;
};

constexpr TextName kTexts[] = {
    {"title", &ReportData::title}, {"model_name", &ReportData::model_name}, {"dataset", &ReportData::dataset},
    {"state", &ReportData::state}, {"created", &ReportData::created},       {"command", &ReportData::command},
};

struct FactsName {
  const char* key;
  std::vector<ReportFact> ReportData::*member;
};

constexpr FactsName kFacts[] = {
    {"extra_results", &ReportData::extra_results}, {"model_facts", &ReportData::model_facts},
    {"dataset_facts", &ReportData::dataset_facts}, {"training_facts", &ReportData::training_facts},
    {"environment", &ReportData::environment},
};

void check_scans(const ReportData& d, const std::function<void(bool, std::string, std::string)>& need) {
  if (d.scans.empty()) return;
  const int64_t cells = int64_t{d.grid_height} * d.grid_width;
  need(d.grid_height > 0 && d.grid_width > 0 && cells <= kLargestGrid, "the patch grid must have positive sides",
       std::to_string(d.grid_height) + " x " + std::to_string(d.grid_width));
  for (const ReportScan& s : d.scans) {
    std::vector<char> seen(static_cast<size_t>(cells));
    bool ok = s.order.size() == seen.size();
    for (const int32_t cell : s.order) {
      ok = ok && cell >= 0 && cell < cells && seen[static_cast<size_t>(cell)]++ == 0;
    }
    need(ok, "scan order '" + s.name + "' must visit each of the " + std::to_string(cells) + " patches once",
         std::to_string(s.order.size()) + " entries that do not");
  }
}

}  // namespace

void check_report(const ReportData& d, ErrorKind kind, const std::string& where) {
  const auto need = [&](bool ok, std::string required, std::string got) {
    require(
        ok, [&] { return Error::Parts{.where = where, .required = required, .got = got, .hint = {}}; }, kind);
  };
  for (const auto& c : kCurves) {
    const ReportSeries& s = d.*c.member;
    need(s.step.size() == s.value.size(), std::string("curve ") + c.key + " must have one value for each step",
         std::to_string(s.step.size()) + " steps and " + std::to_string(s.value.size()) + " values");
  }
  const size_t classes = d.class_names.size();
  if (!d.confusion.empty()) {
    bool ok = d.confusion.size() == classes;
    for (const auto& row : d.confusion) {
      ok = ok && row.size() == classes;
      for (const int64_t n : row) ok = ok && n >= 0;
    }
    need(ok, "the confusion matrix must have one row and one column of counts for each class",
         std::to_string(d.confusion.size()) + " rows for " + std::to_string(classes) + " classes");
  }
  for (const ReportImage& i : d.images) {
    const auto known = [&](int label) { return label >= 0 && static_cast<size_t>(label) < classes; };
    need(known(i.label) && known(i.predicted), "each image must have labels below " + std::to_string(classes),
         std::to_string(i.label) + " and " + std::to_string(i.predicted));
  }
  check_scans(d, need);
}

void set_curves(ReportData& data, const std::vector<MetricRecord>& records) {
  for (const auto& c : kCurves) {
    ReportSeries s;
    for (const MetricRecord& r : records) {
      const auto it = r.values.find(c.metric);
      if (it == r.values.end()) continue;
      s.step.push_back(static_cast<double>(r.step));
      s.value.push_back(it->second);
    }
    data.*c.member = std::move(s);
  }
}

std::string report_to_json(const ReportData& d) {
  Json j{{"aspis_report", kVersion}};
  for (const auto& t : kTexts) j[t.key] = to_valid_utf8(d.*t.member);
  const ReportResult& r = d.result;
  j["result"] = {{"accuracy", number(r.accuracy)},
                 {"loss", number(r.loss)},
                 {"best_epoch", r.best_epoch},
                 {"epochs", r.epochs},
                 {"train_seconds", number(r.train_seconds)},
                 {"images_per_second", number(r.images_per_second)},
                 {"peak_memory_bytes", number(r.peak_memory_bytes)},
                 {"parameters", number(r.parameters)}};
  for (const auto& f : kFacts) j[f.key] = facts(d.*f.member);
  j["steps_per_epoch"] = number(d.steps_per_epoch);
  for (const auto& c : kCurves) j[c.key] = series(d.*c.member);
  j["class_names"] = Json::array();
  for (const auto& name : d.class_names) j["class_names"].push_back(to_valid_utf8(name));
  j["confusion"] = d.confusion;
  j["images"] = Json::array();
  for (const auto& i : d.images) {
    j["images"].push_back({{"label", i.label},
                           {"predicted", i.predicted},
                           {"probability", number(i.probability)},
                           {"name", to_valid_utf8(i.name)},
                           {"png", base64_encode(i.png)}});
  }
  j["grid_height"] = d.grid_height;
  j["grid_width"] = d.grid_width;
  j["scans"] = Json::array();
  for (const auto& s : d.scans) j["scans"].push_back({{"name", to_valid_utf8(s.name)}, {"order", s.order}});
  j["timings"] = Json::array();
  for (const auto& t : d.timings) {
    j["timings"].push_back({{"name", to_valid_utf8(t.name)},
                            {"calls", t.calls},
                            {"seconds", number(t.seconds)},
                            {"note", to_valid_utf8(t.note)}});
  }
  return j.dump() + "\n";
}

ReportData report_from_json(const std::string& text, const std::string& where) {
  ReportData d;
  try {
    const Json j = Json::parse(text);
    const int version = j.at("aspis_report").get<int>();
    if (version > kVersion) {
      throw Error(ErrorKind::kData, {.where = where,
                                     .required = "the report must be of version " + std::to_string(kVersion),
                                     .got = "version " + std::to_string(version),
                                     .hint = "use a newer Aspis"});
    }
    for (const auto& t : kTexts) read(j, t.key, d.*t.member);
    read(j, "result", d.result, as_result);
    for (const auto& f : kFacts) read(j, f.key, d.*f.member, as_facts);
    read(j, "steps_per_epoch", d.steps_per_epoch);
    for (const auto& c : kCurves) read(j, c.key, d.*c.member, as_series);
    read(j, "class_names", d.class_names);
    read(j, "confusion", d.confusion);
    for (const Json& i : j.value("images", Json::array())) {
      d.images.push_back({.png = base64_decode(i.at("png").get_ref<const std::string&>(), where),
                          .label = i.at("label").get<int>(),
                          .predicted = i.at("predicted").get<int>(),
                          .probability = as_number(i.at("probability")),
                          .name = i.value("name", std::string())});
    }
    read(j, "grid_height", d.grid_height);
    read(j, "grid_width", d.grid_width);
    for (const Json& s : j.value("scans", Json::array())) {
      d.scans.push_back({s.at("name").get<std::string>(), s.at("order").get<std::vector<int32_t>>()});
    }
    for (const Json& t : j.value("timings", Json::array())) {
      d.timings.push_back({t.at("name").get<std::string>(), t.at("calls").get<int64_t>(),
                           as_number(t.at("seconds")), t.value("note", std::string())});
    }
  } catch (const Json::exception&) {
    throw Error(ErrorKind::kData, {.where = where,
                                   .required = "the file must be the report.json of a run",
                                   .got = "something else",
                                   .hint = "give the folder of a run"});
  }
  check_report(d, ErrorKind::kData, where);
  return d;
}

ReportData load_run(const std::filesystem::path& run_folder) {
  const auto path = run_folder / "report.json";
  ReportData data = report_from_json(read_file(path), path.string());
  const auto metrics = run_folder / "metrics.jsonl";
  if (std::filesystem::exists(metrics)) set_curves(data, read_metrics(metrics));
  return data;
}

void write_report(const std::filesystem::path& run_folder, const ReportData& data) {
  write_file_atomic(run_folder / "report.html", render_html(data), false);
  write_file_atomic(run_folder / "report.json", report_to_json(data), false);
}

}  // namespace aspis::report
