#include "aspis/report/console.h"

#include <doctest/doctest.h>

#include <map>
#include <string>
#include <vector>

#include "aspis/base/error.h"
#include "aspis/base/utf8.h"

namespace aspis::report {
namespace {

// A terminal that keeps what a person would see: finished lines and the line
// that is being drawn over.
struct Screen {
  std::string raw;
  std::vector<std::string> lines;
  std::string current;
  int columns = 100;
  size_t widest = 0;

  void write(std::string_view text) {
    raw += text;
    for (size_t i = 0; i < text.size(); ++i) {
      if (text[i] == '\r') {
        overwrite_ = true;
      } else if (text[i] == '\n') {
        lines.push_back(current);
        current.clear();
        overwrite_ = false;
      } else if (text[i] == '\x1b') {
        const size_t end = text.find_first_of("mK", i);
        if (text[end] == 'K' && overwrite_) current.clear();
        i = end;
      } else {
        if (overwrite_) current.clear();
        overwrite_ = false;
        current += text[i];
        widest = std::max(widest, utf8_length(current));
      }
    }
  }

 private:
  bool overwrite_ = false;
};

Terminal terminal_of(Screen& screen, bool interactive, bool utf8 = false, bool color = false) {
  Terminal t;
  t.write = [&screen](std::string_view s) { screen.write(s); };
  t.width = [&screen] { return screen.columns; };
  t.interactive = interactive;
  t.utf8 = utf8;
  t.color = color;
  return t;
}

ProgressStep step_of(int64_t step) {
  ProgressStep s;
  s.step = step;
  s.items = 128;
  s.loss = 0.41234;
  s.accuracy = 0.8537;
  s.learning_rate = 8.1e-4;
  s.memory_bytes = 1.2e9;
  return s;
}

struct Run {
  Screen screen;
  double now = 100;
  ProgressOptions options() {
    ProgressOptions o;
    o.clock = [this] { return now; };
    return o;
  }
};

TEST_CASE("bar shows share, rate and time left and is drawn over") {
  Run run;
  run.screen.columns = 120;
  Progress p(terminal_of(run.screen, true), run.options());
  p.begin({.label = "epoch 2/5", .steps = 400, .later_steps = 400});
  for (int i = 1; i <= 100; ++i) {
    run.now += 0.125;
    p.step(step_of(i));
  }
  CHECK(run.screen.lines.empty());
  CHECK(run.screen.current ==
        "epoch 2/5 [####............]   25 %  100/400  1,024 img/s  loss 0.4123  acc 85.4 %  lr 8.1e-04  1.2 GB  "
        "1 min 28 s left");  // 700 steps at 8 a second
  CHECK(p.rate() == doctest::Approx(1024));
  p.end();
  CHECK(run.screen.current.empty());
}

TEST_CASE("bar is drawn at most ten times a second but shows its end") {
  Run run;
  Progress p(terminal_of(run.screen, true), run.options());
  p.begin({.label = "e", .steps = 1000});
  size_t draws = 0;
  for (int i = 1; i <= 1000; ++i) {
    run.now += 0.001;
    const size_t before = run.screen.raw.size();
    p.step(step_of(i));
    draws += run.screen.raw.size() != before ? 1 : 0;
  }
  CHECK(draws >= 9);
  CHECK(draws <= 11);
  CHECK(run.screen.current.find("100 %") != std::string::npos);
}

TEST_CASE("bar fits every width and drops the least important first") {
  for (int columns = 12; columns <= 160; ++columns) {
    CAPTURE(columns);
    Run run;
    run.screen.columns = columns;
    Progress p(terminal_of(run.screen, true, true, true), run.options());
    p.begin({.label = "epoch 2/5", .steps = 400});
    for (int i = 1; i <= 20; ++i) {
      run.now += 0.2;
      p.step(step_of(i * 10));
    }
    CHECK(run.screen.widest < static_cast<size_t>(std::max(columns, 18)));
    if (columns >= 40) CHECK(run.screen.current.find("loss") != std::string::npos);
    CHECK((run.screen.current.find("1.2 GB") != std::string::npos) == (columns >= 103));
  }
}

TEST_CASE("unicode bar grows by eighths") {
  Run run;
  run.screen.columns = 38;
  Progress p(terminal_of(run.screen, true, true), run.options());
  p.begin({.label = "x", .steps = 800});
  ProgressStep s;
  s.step = 107;
  run.now += 1;
  p.step(s);
  CHECK(run.screen.current.find("█") != std::string::npos);
  CHECK(run.screen.current.find("░") != std::string::npos);
  CHECK(run.screen.current.find('\x1b') == std::string::npos);
}

TEST_CASE("plain lines come every few seconds, without control characters") {
  Run run;
  Progress p(terminal_of(run.screen, false), run.options());
  p.begin({.label = "epoch 1/5", .steps = 100});
  for (int i = 1; i <= 100; ++i) {
    run.now += 0.12;
    p.step(step_of(i));
  }
  p.end();
  REQUIRE(run.screen.lines.size() == 2);
  CHECK(run.screen.lines[0] ==
        "epoch 1/5  step 42/100 (42 %)  loss 0.4123  acc 85.4 %  lr 8.1e-04  1,067 img/s  1.2 GB  7.0 s left");
  CHECK(run.screen.raw.find('\x1b') == std::string::npos);
  CHECK(run.screen.raw.find('\r') == std::string::npos);
}

TEST_CASE("messages stand above the bar") {
  Run run;
  Progress p(terminal_of(run.screen, true), run.options());
  p.begin({.label = "e", .steps = 10});
  run.now += 1;
  p.step(step_of(1));
  const std::string bar = run.screen.current;
  p.message("warning: skipped \x1b[2Ja.png");
  CHECK(run.screen.lines == std::vector<std::string>{"warning: skipped  [2Ja.png"});
  CHECK(run.screen.current == bar);
}

TEST_CASE("epoch line names its numbers and marks the best") {
  EpochSummary s;
  s.epoch = 3;
  s.epochs = 12;
  s.train_loss = 0.41234;
  s.val_loss = 0.38;
  s.val_accuracy = 0.86124;
  s.best = true;
  s.seconds = 48;
  CHECK(format_epoch(s, false, false) ==
        "epoch  3/12   train loss 0.4123   val loss 0.3800   val acc 86.12 %   time 48.0 s   * best");
  s.best = false;
  s.val_accuracy = kAbsent;
  CHECK(format_epoch(s, false, true).find("acc") == std::string::npos);
  CHECK(format_epoch(s, true, true).find("\x1b[") != std::string::npos);
}

TEST_CASE("quiet writes messages only") {
  Run run;
  auto options = run.options();
  options.quiet = true;
  Progress p(terminal_of(run.screen, true), options);
  p.begin({.label = "e", .steps = 10});
  run.now += 10;
  p.step(step_of(10));
  p.epoch({});
  p.message("warning");
  p.end();
  CHECK(run.screen.raw == "warning\n");
}

TEST_CASE("colour follows flag, NO_COLOR, CLICOLOR_FORCE and terminal in this order") {
  std::map<std::string, std::string> values;
  const auto env = [&](const char* name) -> const char* {
    const auto it = values.find(name);
    return it == values.end() ? nullptr : it->second.c_str();
  };
  CHECK(wants_color(true, ColorMode::kAuto, env));
  CHECK_FALSE(wants_color(false, ColorMode::kAuto, env));
  values["CLICOLOR_FORCE"] = "1";
  CHECK(wants_color(false, ColorMode::kAuto, env));
  values["NO_COLOR"] = "1";
  CHECK_FALSE(wants_color(true, ColorMode::kAuto, env));
  CHECK(wants_color(false, ColorMode::kOn, env));
  CHECK_FALSE(wants_color(true, ColorMode::kOff, env));
  values = {{"NO_COLOR", ""}, {"TERM", "dumb"}};
  CHECK_FALSE(wants_color(true, ColorMode::kAuto, env));
  values = {{"CLICOLOR_FORCE", "0"}};
  CHECK_FALSE(wants_color(false, ColorMode::kAuto, env));

  values = {{"LANG", "de_DE.UTF-8"}};
  CHECK(wants_utf8(env));
  values["LC_ALL"] = "C";
  CHECK_FALSE(wants_utf8(env));
  values["LC_ALL"] = "C.utf8";
  CHECK(wants_utf8(env));
  values.clear();
  CHECK_FALSE(wants_utf8(env));

  CHECK(parse_color_mode("never") == ColorMode::kOff);
  CHECK_THROWS_AS(parse_color_mode("blue"), Error);
}

}  // namespace
}  // namespace aspis::report
