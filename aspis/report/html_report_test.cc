#include "aspis/report/html_report.h"

#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "aspis/base/error.h"
#include "aspis/base/file.h"
#include "aspis/report/html_parts.h"
#include "aspis/report/sample_report.h"
#include "aspis/report/text.h"

namespace aspis::report {
namespace {

namespace fs = std::filesystem;

size_t count_of(const std::string& text, std::string_view part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++n;
  return n;
}

std::string embedded_data(const std::string& html) {
  const std::string open = "<script type='application/json' id='data'>";
  const size_t begin = html.find(open) + open.size();
  return html.substr(begin, html.find("</script>", begin) - begin);
}

// Checks that tags nest and that attribute values are closed.
bool is_well_formed(const std::string& html, std::string& problem) {
  std::vector<std::string> open;
  size_t at = 0;
  while ((at = html.find('<', at)) != std::string::npos) {
    if (html.compare(at, 2, "<!") == 0) {
      at = html.find('>', at);
      continue;
    }
    const bool closing = html[at + 1] == '/';
    size_t p = at + (closing ? 2 : 1);
    std::string name;
    while (std::isalnum(static_cast<unsigned char>(html[p]))) name += html[p++];
    char quote = 0;
    while (p < html.size() && (quote != 0 || html[p] != '>')) {
      if (quote != 0 && html[p] == quote) {
        quote = 0;
      } else if (quote == 0 && (html[p] == '"' || html[p] == '\'')) {
        quote = html[p];
      } else if (quote == 0 && html[p] == '<') {
        problem = "< inside the tag " + html.substr(at, 80);
        return false;
      }
      ++p;
    }
    const bool empty = html[p - 1] == '/' || name == "meta" || name == "img";
    at = p + 1;
    if (closing) {
      if (open.empty() || open.back() != name) {
        problem =
            "</" + name + "> closes " + (open.empty() ? "nothing" : open.back()) + " at " + html.substr(p, 80);
        return false;
      }
      open.pop_back();
    } else if (!empty) {
      open.push_back(name);
      if (name == "script" || name == "style") at = html.find("</" + name, at);
    }
  }
  problem = open.empty() ? "" : "open: " + open.back();
  return open.empty();
}

ReportData hostile_report() {
  ReportData d = sample_report();
  const std::string bad = "</script><img src=x onerror='alert(1)'>\"&\xFF{{}}<!--";
  d.title = d.model_name = d.dataset = d.command = d.state = d.created = bad;
  for (auto& name : d.class_names) name = bad;
  for (auto& image : d.images) image.name = bad;
  for (auto& scan : d.scans) scan.name = bad;
  for (auto& timing : d.timings) timing.name = timing.note = bad;
  for (auto* facts : {&d.extra_results, &d.model_facts, &d.dataset_facts, &d.training_facts, &d.environment}) {
    for (auto& f : *facts) f.name = f.value = bad;
  }
  return d;
}

TEST_CASE("sample report is one well-formed file below 2 MB, and is written for looking at") {
  const ReportData d = sample_report();
  const std::string html = render_html(d);
  std::string problem;
  CHECK_MESSAGE(is_well_formed(html, problem), problem);
  CHECK(html.size() < 2000000);
  const fs::path folder = fs::path(ASPIS_BINARY_DIR) / "report_sample";
  fs::create_directories(folder);
  write_report(folder, d);
  const auto events = tensorboard_sink(folder);
  events->begin({});
  for (size_t i = 0; i < 100; ++i) {
    events->scalars(static_cast<int64_t>(d.train_loss.step[i]), 0, {{kTrainLoss, d.train_loss.value[i]}});
  }
  events->image(100, "test/first", d.images[0].png);
  events->text(100, "command", d.command);
  events->end();
  CHECK(read_file(folder / "report.html") == html);
}

TEST_CASE("report refers to nothing outside of it") {
  const std::string html = render_html(sample_report());
  for (const char* part : {"http://", "https://", "@import", "url(", "<link", "<iframe", "src='//", "fetch("}) {
    CAPTURE(part);
    CHECK(html.find(part) == std::string::npos);
  }
  // Every address stays within the page or holds its bytes.
  size_t found = 0;
  for (const std::string attribute : {" src='", " href='"}) {
    for (size_t at = html.find(attribute); at != std::string::npos; at = html.find(attribute, at + 1), ++found) {
      const std::string target = html.substr(at + attribute.size(), 40);
      CHECK((target.starts_with("#") || target.starts_with("data:image/png;base64,")));
    }
  }
  CHECK(found > 36);
}

TEST_CASE("curves are drawn without the script, with a title and words for each") {
  const std::string html = render_html(sample_report());
  CHECK(count_of(html, "class='card plot'") == 5);
  CHECK(html.find("aria-label='Loss over epoch: training ends at 0.2") != std::string::npos);
  CHECK(count_of(html, "<img ") == count_of(html, " alt='"));
  CHECK(count_of(html, "role='img'") == 5 + 4);
}

TEST_CASE("embedded data are valid JSON with all curves and scans") {
  const auto j = nlohmann::json::parse(embedded_data(render_html(sample_report())));
  REQUIRE(j["plots"].size() == 5);
  const auto& loss = j["plots"][0]["lines"];
  REQUIRE(loss.size() == 2);
  CHECK(loss[0]["x"].size() == loss[0]["y"].size());
  CHECK(loss[0]["x"].size() <= 1500);
  CHECK(loss[0]["x"].back().get<double>() == doctest::Approx(6));
  CHECK(loss[1]["x"].size() == 6);
  CHECK(j["plots"][1]["lines"][1]["best"] == 4);
  CHECK(j["scans"].size() == 4);
  CHECK(j["scans"][2][1] == 7);
}

TEST_CASE("hostile text stays text") {
  const std::string html = render_html(hostile_report());
  std::string problem;
  CHECK_MESSAGE(is_well_formed(html, problem), problem);
  CHECK(html.find("<img src=x") == std::string::npos);
  CHECK(html.find("onerror='") == std::string::npos);
  CHECK(html.find('\xFF') == std::string::npos);
  CHECK(count_of(html, "<script") == 2);
  CHECK(count_of(html, "</script>") == 2);
  CHECK(count_of(html, "&lt;/script&gt;&lt;img src=x onerror=&#39;alert(1)&#39;&gt;") > 50);
  CHECK(nlohmann::json::accept(embedded_data(html)));
}

TEST_CASE("only the one script may run") {
  const std::string html = render_html(sample_report());
  const size_t begin = html.find("<script type='module'>") + 22;
  const std::string script = html.substr(begin, html.find("</script>", begin) - begin);
  const std::string hex = sha256_hex(script);
  std::string bytes;
  for (size_t i = 0; i < hex.size(); i += 2) bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  CHECK(html.find("script-src 'sha256-" + base64_encode(bytes) + "'") != std::string::npos);
  CHECK(html.find("default-src 'none'") != std::string::npos);
}

TEST_CASE("mistakes stand first, the surest of them at the front") {
  ReportData d = sample_report();
  const std::string grid = image_grid(d);
  const size_t first_good = grid.find("class='good'");
  CHECK(count_of(grid.substr(0, first_good), "class='bad'") == 12);
  CHECK(grid.find("class='bad'", first_good) == std::string::npos);
  d.images.resize(3);
  d.images[0].probability = 0.5;
  d.images[1].probability = std::nan("");
  d.images[2].probability = 0.9;
  d.images[0].name = "img-low";
  d.images[1].name = "img-none";
  d.images[2].name = "img-high";
  const std::string three = image_grid(d);
  CHECK(three.find("img-high") < three.find("img-low"));
  CHECK(three.find("img-low") < three.find("img-none"));
}

TEST_CASE("many images and large ones stay within the size") {
  ReportData d = sample_report();
  const std::string large(200000, 'x');
  for (int i = 0; i < 500; ++i) d.images.push_back({large, i % 10, (i + 1) % 10, 0.9, {}});
  CHECK(render_html(d).size() < 2000000);
}

TEST_CASE("long runs are thinned and keep peaks of the gradient norm") {
  ReportData d = sample_report();
  for (auto* s : {&d.train_loss, &d.grad_norm}) {
    s->step.clear();
    s->value.clear();
    for (int i = 1; i <= 100000; ++i) {
      s->step.push_back(i);
      s->value.push_back(i == 50000 ? 900 : 1);
    }
  }
  d.train_loss.value[10] = std::nan("");
  const auto plots = make_plots(d);
  const PlotLine& loss = plots[0].lines[0];
  CHECK(loss.y.size() <= 1500);
  CHECK(plots[0].note == "mean of 67 steps per point");
  CHECK(std::isfinite(loss.y[0]));
  const PlotLine& norm = plots[3].lines[0];
  CHECK(*std::max_element(norm.y.begin(), norm.y.end()) == 900);
}

TEST_CASE("reports of hundreds of classes, of one step and of nothing are rendered") {
  ReportData d = sample_report();
  d.images.clear();
  d.class_names.assign(100, "class");
  d.confusion.assign(100, std::vector<int64_t>(100, 1));
  std::string html = render_html(d);
  CHECK(html.find("<svg class='map'") != std::string::npos);
  CHECK(html.size() < 2000000);
  d.class_names.assign(1000, "class");
  d.confusion.assign(1000, std::vector<int64_t>(1000, 1));
  CHECK(render_html(d).size() < 2000000);

  ReportData one;
  one.train_loss = {{1}, {0.5}};
  one.val_loss = {{1}, {std::nan("")}};
  one.grid_height = one.grid_width = 1;
  one.scans = {{"x", {0}}};
  one.confusion = {{0}};
  one.class_names = {"a"};
  html = render_html(one);
  for (const char* word : {"nan", "inf", "Infinity"}) {
    CAPTURE(word);
    CHECK(embedded_data(html).find(word) == std::string::npos);
  }
  CHECK(html.find("d='Mnan") == std::string::npos);
  std::string problem;
  CHECK_MESSAGE(is_well_formed(html, problem), problem);

  html = render_html({});
  CHECK_MESSAGE(is_well_formed(html, problem), problem);
  CHECK(html.find("<h1>Training report</h1>") != std::string::npos);
}

TEST_CASE("data that do not fit together are refused with what is wrong") {
  const ReportData good = sample_report();
  const auto refused = [&](auto change, const char* words) {
    ReportData d = good;
    change(d);
    CHECK_THROWS_WITH_AS(render_html(d), doctest::Contains(words), Error);
  };
  refused([](ReportData& d) { d.val_loss.step.pop_back(); }, "curve val_loss");
  refused([](ReportData& d) { d.confusion[3].pop_back(); }, "confusion matrix");
  refused([](ReportData& d) { d.class_names.pop_back(); }, "confusion matrix");
  refused([](ReportData& d) { d.images[0].predicted = 10; }, "labels below 10");
  refused([](ReportData& d) { d.images[0].label = -1; }, "labels below 10");
  refused([](ReportData& d) { d.scans[1].order[0] = 1; }, "rows, backward");
  refused([](ReportData& d) { d.scans[1].order[0] = 49; }, "rows, backward");
  refused([](ReportData& d) { d.grid_width = 0; }, "patch grid");
}

TEST_CASE("report.json gives the same report again and refuses other files") {
  const ReportData d = hostile_report();
  const std::string text = report_to_json(d);
  const ReportData again = report_from_json(text, "report.json");
  CHECK(report_to_json(again) == text);
  CHECK(render_html(again) == render_html(d));
  CHECK(report_to_json(report_from_json(R"({"aspis_report":1})", "x")) == report_to_json({}));
  for (const char* bad :
       {"", "[]", "{}", "{\"aspis_report\":1,\"title\":3}", "{\"aspis_report\":1,\"confusion\":[[1]]}",
        "{\"aspis_report\":1,\"images\":[{}]}", "{\"aspis_report\":1,\"images\":3}",
        "{\"aspis_report\":1,\"scans\":[{\"name\":\"a\",\"order\":[0]}]}", "{\"aspis_report\":2}"}) {
    CAPTURE(bad);
    CHECK_THROWS_WITH_AS(report_from_json(bad, "runs/x/report.json"), doctest::Contains("runs/x/report.json"),
                         Error);
  }
}

TEST_CASE("a run folder gives its report with the newest curves") {
  const fs::path folder = fs::path(ASPIS_BINARY_DIR) / "report_run_test";
  fs::remove_all(folder);
  fs::create_directories(folder);
  write_report(folder, sample_report());
  CHECK(load_run(folder).train_loss.step.size() == sample_report().train_loss.step.size());
  const auto sinks = run_folder_sinks(folder);
  sinks->begin({});
  sinks->scalars(10, 0.1, {{kTrainLoss, 1.5}, {kLearningRate, 0.1}});
  sinks->scalars(20, 0.2, {{kTrainLoss, 1.25}});
  const ReportData d = load_run(folder);
  CHECK(d.train_loss.step == std::vector<double>{10, 20});
  CHECK(d.train_loss.value == std::vector<double>{1.5, 1.25});
  CHECK(d.learning_rate.step == std::vector<double>{10});
  CHECK(d.val_loss.step.empty());
  CHECK(d.class_names.size() == 10);
  fs::remove_all(folder);
  CHECK_THROWS_AS(load_run(folder), Error);
}

TEST_CASE("ticks are round numbers within the range") {
  CHECK(nice_ticks(0, 1, 5) == std::vector<double>{0, 0.2, 0.4, 0.6000000000000001, 0.8, 1});
  CHECK(nice_ticks(3, 47, 4) == std::vector<double>{10, 20, 30, 40});
  CHECK(nice_ticks(1, 1, 5).empty());
  CHECK(nice_ticks(0, INFINITY, 5).empty());
}

TEST_CASE("smoothing keeps a constant and the start, calms the end and leaves gaps out") {
  const auto flat = smooth(std::vector<double>(200, 3.0));
  for (const double v : flat) CHECK(v == doctest::Approx(3));
  std::vector<double> line(400);
  for (size_t i = 0; i < 400; ++i) line[i] = static_cast<double>(i);
  const auto s = smooth(line);
  CHECK(s.front() == 0);
  CHECK(s.back() == doctest::Approx(396.5));  // of 394 to 399
  CHECK(s[200] == doctest::Approx(200));
  line[200] = std::nan("");
  CHECK(smooth(line)[201] == doctest::Approx(201.1));
  CHECK(smooth({}).empty());
}

}  // namespace
}  // namespace aspis::report
