#include "aspis/report/sinks.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <nlohmann/json.hpp>

#include "aspis/base/error.h"
#include "aspis/base/file.h"
#include "aspis/base/io_calls.h"
#include "aspis/report/tensorboard.h"

namespace aspis::report {
namespace {

namespace fs = std::filesystem;

struct TempFolder {
  fs::path path;
  TempFolder() {
    static int counter = 0;
    path = fs::temp_directory_path() /
           ("aspis_sinks_" + std::to_string(::getpid()) + "_" + std::to_string(counter++));
    fs::create_directories(path);
  }
  ~TempFolder() { fs::remove_all(path); }
};

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at);
    lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return lines;
}

fs::path events_file(const fs::path& folder) {
  for (const auto& e : fs::directory_iterator(folder)) {
    if (e.path().filename().string().find("tfevents") != std::string::npos) return e.path();
  }
  return {};
}

size_t record_count(const std::string& file) {
  size_t n = 0;
  for (size_t at = 0; at < file.size(); ++n) {
    uint64_t length = 0;
    for (size_t i = 0; i < 8; ++i) length |= uint64_t{static_cast<unsigned char>(file[at + i])} << (8 * i);
    at += length + 16;
  }
  return n;
}

void record(MetricsSink& sink, int first, int last) {
  for (int step = first; step <= last; ++step) {
    sink.scalars(step, step / 10.0, {{kTrainLoss, 1.0 / step}, {kLearningRate, 1e-3}});
  }
}

TEST_CASE("jsonl holds one valid object per call") {
  const TempFolder dir;
  const auto path = dir.path / "metrics.jsonl";
  const auto sink = jsonl_sink(path);
  sink->begin({});
  sink->scalars(1, 0.5, {{kTrainLoss, 0.25}, {"bad \xFF\"name", NAN}, {"up", INFINITY}});
  sink->text(1, "note", "two\nlines \xC3");
  sink->end();
  const auto lines = lines_of(read_file(path));
  REQUIRE(lines.size() == 2);
  const auto j = nlohmann::json::parse(lines[0]);
  CHECK(j["step"] == 1);
  CHECK(j["epoch"] == 0.5);
  CHECK(j["train/loss"] == 0.25);
  CHECK(j["bad \xEF\xBF\xBD\"name"] == "nan");
  CHECK(j["up"] == "inf");
  CHECK(j["time"].get<std::string>().size() == 20);
  CHECK(nlohmann::json::parse(lines[1])["text"]["note"] == "two\nlines \xEF\xBF\xBD");

  const auto records = read_metrics(path);
  REQUIRE(records.size() == 1);
  CHECK(records[0].values.at("train/loss") == 0.25);
  CHECK(std::isinf(records[0].values.at("up")));
  CHECK(records[0].epoch == 0.5);
}

TEST_CASE("csv has fixed columns and takes new ones in") {
  const TempFolder dir;
  const auto path = dir.path / "metrics.csv";
  const auto sink = csv_sink(path);
  sink->begin({});
  sink->scalars(1, 0.1, {{kTrainLoss, 0.25}});
  sink->scalars(2, 0.2, {{"a,b", 7}, {kValAccuracy, NAN}});
  sink->scalars(3, 0.3, {{kTrainLoss, 0.125}});
  const auto lines = lines_of(read_file(path));
  REQUIRE(lines.size() == 4);
  CHECK(lines[0] ==
        "step,epoch,time,train/loss,train/accuracy,train/learning_rate,train/grad_norm,train/images_per_second,"
        "train/memory_bytes,val/loss,val/accuracy,epoch/seconds,\"a,b\"");
  CHECK(lines[1].substr(0, 6) == "1,0.1,");
  CHECK(lines[1].substr(26) == ",0.25,,,,,,,,,");
  CHECK(lines[2].substr(26) == ",,,,,,,,nan,,7");
  CHECK(lines[3].substr(26) == ",0.125,,,,,,,,,");

  sink->begin({.resume = true, .step = 2});
  sink->scalars(3, 0.3, {{"a,b", 8}});
  const auto again = lines_of(read_file(path));
  REQUIRE(again.size() == 4);
  CHECK(again[2] == lines[2]);
  CHECK(again[3].substr(26) == ",,,,,,,,,,8");
}

TEST_CASE("resumed sinks hold the same records as an unbroken run") {
  const TempFolder dir;
  {
    const auto sinks = run_folder_sinks(dir.path);
    sinks->begin({});
    record(*sinks, 1, 9);  // killed here; the last checkpoint is of step 6
  }
  const fs::path events = events_file(dir.path);
  // The kill cut the last record of each file.
  for (const fs::path& p : {dir.path / "metrics.jsonl", dir.path / "metrics.csv", events}) {
    fs::resize_file(p, fs::file_size(p) - 3);
  }
  {
    const auto sinks = run_folder_sinks(dir.path);
    sinks->begin({.resume = true, .step = 6});
    record(*sinks, 7, 12);
    sinks->end();
  }
  const auto records = read_metrics(dir.path / "metrics.jsonl");
  REQUIRE(records.size() == 12);
  for (int i = 0; i < 12; ++i) {
    CHECK(records[i].step == i + 1);
    CHECK(records[i].values.at(kTrainLoss) == 1.0 / (i + 1));
  }
  const auto rows = lines_of(read_file(dir.path / "metrics.csv"));
  REQUIRE(rows.size() == 13);
  CHECK(rows[12].substr(0, 3) == "12,");
  CHECK(events_file(dir.path) == events);
  const std::string file = read_file(events);
  CHECK(record_count(file) == 13);
  CHECK(keep_events(file, 1000) == file);

  // A fresh start leaves nothing of the old run.
  const auto sinks = run_folder_sinks(dir.path);
  sinks->begin({});
  CHECK(read_metrics(dir.path / "metrics.jsonl").empty());
  CHECK(lines_of(read_file(dir.path / "metrics.csv")).size() == 1);
  CHECK(record_count(read_file(events_file(dir.path))) == 1);
}

TEST_CASE("resume without files starts them") {
  const TempFolder dir;
  const auto sinks = run_folder_sinks(dir.path);
  sinks->begin({.resume = true, .step = 5});
  record(*sinks, 6, 6);
  CHECK(read_metrics(dir.path / "metrics.jsonl").size() == 1);
  CHECK(lines_of(read_file(dir.path / "metrics.csv")).size() == 2);
}

TEST_CASE("crc32c gives the published check values") {
  CHECK(crc32c("") == 0);
  CHECK(crc32c("123456789") == 0xE3069283U);              // the usual check value
  CHECK(crc32c(std::string(32, '\0')) == 0x8A9136AAU);    // RFC 3720, B.4
  CHECK(crc32c(std::string(32, '\xFF')) == 0x62A8AB43U);  // RFC 3720, B.4
  CHECK(masked_crc32c("123456789") == ((0xE3069283U >> 15 | 0xE3069283U << 17) + 0xA282EAD8U));
}

TEST_CASE("events are the bytes that the format asks for") {
  // Event{wall_time: 1.5, step: 300, summary{value{tag: "a", simple_value: 0.5}}}, by hand.
  const std::string expected("\x09\0\0\0\0\0\0\xF8\x3F\x10\xAC\x02\x2A\x0A\x0A\x08\x0A\x01\x61\x15\0\0\0\x3F", 24);
  CHECK(scalar_event(1.5, 300, {{"a", 0.5F}}) == expected);
  CHECK(version_event(1.5) == std::string("\x09\0\0\0\0\0\0\xF8\x3F\x1A\x0D", 11) + "brain.Event:2");
  const std::string record = event_record(expected);
  CHECK(record.size() == expected.size() + 16);
  CHECK(record.substr(0, 8) == std::string("\x18\0\0\0\0\0\0\0", 8));
  CHECK(record.substr(12, 24) == expected);
  CHECK(image_event(1, 1, "x", "not a png").empty());
}

TEST_CASE("a damaged event file is kept up to the damage, at every byte") {
  std::string file = event_record(version_event(1));
  const size_t head = file.size();
  for (int i = 1; i <= 3; ++i) file += event_record(scalar_event(1, i, {{"loss", 0.5F}}));
  CHECK(keep_events(file, 2) == file.substr(0, head + (file.size() - head) / 3 * 2));
  for (size_t n = 0; n < file.size(); ++n) {
    const std::string kept = keep_events(file.substr(0, n), 10);
    CHECK(kept.size() <= n);
    CHECK(file.starts_with(kept));
  }
  for (size_t n = 0; n < file.size(); ++n) {
    std::string flipped = file;
    flipped[n] = static_cast<char>(flipped[n] ^ 0x40);
    const std::string kept = keep_events(flipped, 10);
    CHECK(kept.size() <= n);  // the record with the damage is gone
    CHECK(file.starts_with(kept));
  }
}

TEST_CASE("a full disk is an error of writing and leaves whole records") {
  const TempFolder dir;
  const auto sink = tensorboard_sink(dir.path);
  sink->begin({});
  record(*sink, 1, 2);
  const std::string before = read_file(events_file(dir.path));
  static int calls;
  calls = 0;
  io_calls().write = [](int fd, const void* data, size_t n) -> ssize_t {
    if (calls++ == 0) return ::write(fd, data, std::min<size_t>(n, 5));
    errno = ENOSPC;
    return -1;
  };
  try {
    record(*sink, 3, 3);
    FAIL("no error");
  } catch (const Error& e) {
    CHECK(e.kind() == ErrorKind::kWrite);
  }
  io_calls() = default_io_calls();
  CHECK(read_file(events_file(dir.path)) == before);
  record(*sink, 3, 3);
  CHECK(record_count(read_file(events_file(dir.path))) == 4);
}

TEST_CASE("metrics file with a damaged line in the middle names the line") {
  const TempFolder dir;
  const auto path = dir.path / "metrics.jsonl";
  write_file_atomic(path, "{\"step\":1}\nnonsense\n{\"step\":2}\n");
  CHECK_THROWS_WITH_AS(read_metrics(path), doctest::Contains("metrics.jsonl:2"), Error);
  write_file_atomic(path, "{\"step\":1}\n{\"step\":2,\"a\"");
  CHECK(read_metrics(path).size() == 1);
}

TEST_CASE("status reads back and refuses other files") {
  const TempFolder dir;
  const auto path = dir.path / "status.json";
  RunStatus s;
  s.state = "stopped";
  s.reason = "SIGINT at \xFF \"now\"";
  s.step = 1234;
  s.epochs = 5;
  s.metrics = {{"best_val_accuracy", 0.8812}, {"loss", NAN}};
  s.info = {{"best", "checkpoints/best"}};
  write_status(path, s);
  const RunStatus r = read_status(path);
  CHECK(r.state == "stopped");
  CHECK(r.reason == "SIGINT at \xEF\xBF\xBD \"now\"");
  CHECK(r.step == 1234);
  CHECK(r.epochs == 5);
  CHECK(r.metrics.at("best_val_accuracy") == 0.8812);
  CHECK(std::isnan(r.metrics.at("loss")));
  CHECK(r.info == s.info);
  for (const char* bad : {"", "[]", "{", "{\"state\":3}", "{\"state\":\"done\",\"info\":{\"a\":1}}"}) {
    CAPTURE(bad);
    write_file_atomic(path, bad);
    CHECK_THROWS_AS(read_status(path), Error);
  }
}

}  // namespace
}  // namespace aspis::report
