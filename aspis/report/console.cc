#include "aspis/report/console.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <vector>

#include "aspis/base/clock.h"
#include "aspis/base/error.h"
#include "aspis/base/utf8.h"
#include "aspis/report/text.h"

namespace aspis::report {
namespace {

constexpr double kRateWindow = 15;  // seconds
constexpr const char* kReset = "\x1b[0m";
constexpr const char* kAccent = "\x1b[36m";
constexpr const char* kDim = "\x1b[2m";
constexpr const char* kGood = "\x1b[32m";
constexpr const char* kBold = "\x1b[1m";

std::string painted(const char* code, const std::string& text, bool color) {
  return color ? code + text + kReset : text;
}

bool set(const char* value) { return value != nullptr && *value != '\0'; }

int columns_of(int fd) {
  struct winsize size {};
  if (::ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

void write_fully(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t n = ::write(fd, text.data(), text.size());
    if (n > 0) {
      text.remove_prefix(static_cast<size_t>(n));
    } else if (n == 0 || errno != EINTR) {
      return;  // a closed terminal must not stop a training
    }
  }
}

// A bar of `width` columns, `share` of it filled.
std::string bar_of(int width, double share, bool utf8, bool color) {
  const double filled = std::clamp(share, 0.0, 1.0) * width;
  const int whole = static_cast<int>(filled);
  std::string done;
  std::string rest;
  if (!utf8) {
    done.assign(static_cast<size_t>(whole), '#');
    rest.assign(static_cast<size_t>(width - whole), '.');
    return "[" + painted(kAccent, done, color) + painted(kDim, rest, color) + "]";
  }
  // Eighths of a block, so that the bar moves smoothly.
  static constexpr const char* kEighths[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  for (int i = 0; i < whole; ++i) done += "█";
  const int eighth = static_cast<int>((filled - whole) * 8);
  done += kEighths[eighth];
  for (int i = whole + (eighth > 0 ? 1 : 0); i < width; ++i) rest += "░";
  return painted(kAccent, done, color) + painted(kDim, rest, color);
}

std::string format_rate(double rate, const std::string& unit) {
  return (rate >= 100 ? format_count(static_cast<int64_t>(std::llround(rate))) : format_number(rate, 3)) + " " +
         unit;
}

std::string safe_line(std::string_view line) {
  std::string out = to_valid_utf8(line);
  for (char& c : out) {
    if ((static_cast<unsigned char>(c) < 0x20 && c != '\t' && c != '\n') || c == 0x7f) c = ' ';
  }
  return out;
}

}  // namespace

ColorMode parse_color_mode(std::string_view name) {
  if (name == "auto") return ColorMode::kAuto;
  if (name == "on" || name == "always") return ColorMode::kOn;
  if (name == "off" || name == "never") return ColorMode::kOff;
  throw Error(ErrorKind::kUsage, {.where = "--color",
                                  .required = "the value must be auto, on or off",
                                  .got = "'" + std::string(name) + "'",
                                  .hint = {}});
}

bool wants_color(bool is_terminal, ColorMode mode, const std::function<const char*(const char*)>& env) {
  if (mode != ColorMode::kAuto) return mode == ColorMode::kOn;
  if (set(env("NO_COLOR"))) return false;
  const char* force = env("CLICOLOR_FORCE");
  if (set(force) && std::string_view(force) != "0") return true;
  const char* term = env("TERM");
  const char* clicolor = env("CLICOLOR");
  if (term != nullptr && std::string_view(term) == "dumb") return false;
  if (clicolor != nullptr && std::string_view(clicolor) == "0") return false;
  return is_terminal;
}

bool wants_utf8(const std::function<const char*(const char*)>& env) {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const char* value = env(name);
    if (!set(value)) continue;
    std::string lower(value);
    for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    return lower.find("utf-8") != std::string::npos || lower.find("utf8") != std::string::npos;
  }
  return false;
}

Terminal open_terminal(int fd, ColorMode mode) {
  const auto env = [](const char* name) -> const char* { return std::getenv(name); };
  const bool is_terminal = ::isatty(fd) == 1;
  const char* term = env("TERM");
  Terminal t;
  t.write = [fd](std::string_view text) { write_fully(fd, text); };
  t.interactive = is_terminal && !(term != nullptr && std::string_view(term) == "dumb");
  t.color = wants_color(is_terminal, mode, env);
  t.utf8 = wants_utf8(env);
  t.width = [fd] { return columns_of(fd); };
  return t;
}

std::string format_epoch(const EpochSummary& s, bool color, bool utf8) {
  const std::string total = std::to_string(s.epochs);
  std::string out = s.epochs > 0 ? fmt::format("epoch {:>{}}/{}", s.epoch, total.size(), total)
                                 : fmt::format("epoch {}", s.epoch);
  out = painted(kBold, out, color);
  const auto add = [&](std::string_view name, const std::string& value) {
    out += "   " + painted(kDim, std::string(name), color) + " " + value;
  };
  if (!std::isnan(s.train_loss)) add("train loss", fmt::format("{:.4f}", s.train_loss));
  if (!std::isnan(s.train_accuracy)) add("train acc", format_percent(s.train_accuracy, 2));
  if (!std::isnan(s.val_loss)) add("val loss", fmt::format("{:.4f}", s.val_loss));
  if (!std::isnan(s.val_accuracy)) add("val acc", format_percent(s.val_accuracy, 2));
  if (!std::isnan(s.seconds)) add("time", format_duration(s.seconds));
  if (s.best) out += "   " + painted(kGood, utf8 ? "★ best" : "* best", color);
  return out;
}

Progress::Progress(Terminal terminal, ProgressOptions options)
    : terminal_(std::move(terminal)), options_(std::move(options)) {
  if (!terminal_.write) terminal_.write = [](std::string_view) {};
  if (!terminal_.width) terminal_.width = [] { return 80; };
  if (!options_.clock) options_.clock = monotonic_seconds;
}

Progress::~Progress() { end(); }

void Progress::begin(ProgressPhase phase) {
  const std::lock_guard lock(mutex_);
  clear_bar();
  phase_ = std::move(phase);
  now_ = {};
  items_ = 0;
  open_ = true;
  const double now = options_.clock();
  samples_.assign(1, {now, 0, 0});
  // The first plain line comes after the usual pause, the first bar at once.
  last_output_ = terminal_.interactive ? now - options_.redraw_seconds : now;
  if (terminal_.interactive) draw(now);
}

void Progress::step(const ProgressStep& step) {
  const std::lock_guard lock(mutex_);
  if (!open_) return;
  const double now = options_.clock();
  now_ = step;
  items_ += step.items;
  samples_.push_back({now, items_, step.step});
  while (samples_.size() > 2 && samples_[1].time < now - kRateWindow) samples_.pop_front();
  draw(now);
}

void Progress::end() {
  const std::lock_guard lock(mutex_);
  clear_bar();
  open_ = false;
}

void Progress::epoch(const EpochSummary& summary) {
  const std::lock_guard lock(mutex_);
  clear_bar();
  if (!options_.quiet) terminal_.write(format_epoch(summary, terminal_.color, terminal_.utf8) + "\n");
}

void Progress::message(std::string_view line) {
  const std::lock_guard lock(mutex_);
  const bool again = drawn_;
  clear_bar();
  terminal_.write(safe_line(line) + "\n");
  if (again) {
    terminal_.write(bar_line(terminal_.width()));
    drawn_ = true;
  }
}

double Progress::rate() const {
  const std::lock_guard lock(mutex_);
  return rate_now();
}

double Progress::rate_now() const {
  if (samples_.size() < 2) return 0;
  const double seconds = samples_.back().time - samples_.front().time;
  return seconds > 0 ? static_cast<double>(samples_.back().items - samples_.front().items) / seconds : 0;
}

double Progress::seconds_left() const {
  if (phase_.steps <= 0 || samples_.size() < 2) return kAbsent;
  const double seconds = samples_.back().time - samples_.front().time;
  const int64_t steps = samples_.back().step - samples_.front().step;
  if (steps <= 0 || seconds <= 0) return kAbsent;
  const int64_t left = std::max<int64_t>(0, phase_.steps - now_.step) + phase_.later_steps;
  return static_cast<double>(left) * seconds / static_cast<double>(steps);
}

void Progress::clear_bar() {
  if (drawn_) terminal_.write("\r\x1b[K");
  drawn_ = false;
}

void Progress::draw(double now) {
  if (options_.quiet) return;
  const bool last = phase_.steps > 0 && now_.step >= phase_.steps;
  const double pause = terminal_.interactive ? options_.redraw_seconds : options_.line_seconds;
  // A bar shows its end; plain lines have the line of the epoch for that.
  if (now - last_output_ < pause && !(last && terminal_.interactive)) return;
  last_output_ = now;
  if (terminal_.interactive) {
    terminal_.write("\r" + bar_line(terminal_.width()) + "\x1b[K");
    drawn_ = true;
  } else {
    terminal_.write(plain_line() + "\n");
  }
}

std::string Progress::bar_line(int width) const {
  const bool color = terminal_.color;
  struct Field {
    std::string text;  // without colour codes, for the width
    int importance;    // the least important goes first when space is short
  };
  std::vector<Field> fields;
  const auto add = [&](std::string text, int importance) { fields.push_back({std::move(text), importance}); };
  const bool sized = phase_.steps > 0;
  const double share = sized ? static_cast<double>(now_.step) / static_cast<double>(phase_.steps) : 0;
  if (sized) {
    add(fmt::format("{:3.0f} %", std::floor(share * 100)), 8);
    add(fmt::format("{}/{}", now_.step, phase_.steps), 3);
  } else {
    add(fmt::format("step {}", now_.step), 8);
  }
  if (rate_now() > 0) add(format_rate(rate_now(), phase_.unit), 5);
  if (!std::isnan(now_.loss)) add("loss " + format_number(now_.loss), 7);
  if (!std::isnan(now_.accuracy)) add("acc " + format_percent(now_.accuracy), 6);
  if (!std::isnan(now_.learning_rate)) add("lr " + format_number(now_.learning_rate), 2);
  if (!std::isnan(now_.memory_bytes)) add(format_bytes(now_.memory_bytes), 1);
  if (const double left = seconds_left(); !std::isnan(left)) add(format_duration(left) + " left", 4);

  // One column stays free: writing into the last one wraps on some terminals.
  const int room = std::max(10, width - 1);
  constexpr int kShortestBar = 8;
  constexpr int kLongestBar = 30;
  const std::string label = shorten(phase_.label, static_cast<size_t>(room) / 3, terminal_.utf8);
  const auto used = [&] {
    size_t n = utf8_length(label) + 1 + (terminal_.utf8 ? 0 : 2);
    for (const Field& f : fields) n += 2 + utf8_length(f.text);
    return static_cast<int>(n);
  };
  while (used() + kShortestBar > room && fields.size() > 1) {
    fields.erase(std::min_element(fields.begin(), fields.end(),
                                  [](const Field& a, const Field& b) { return a.importance < b.importance; }));
  }
  const int bar = std::min(kLongestBar, room - used());
  std::string out = painted(kBold, label, color) + " ";
  if (sized && bar >= 3) out += bar_of(bar, share, terminal_.utf8, color);
  for (const Field& f : fields) {
    // Names are dim, values are not.
    const size_t space = f.text.find(' ');
    const bool named = f.importance == 7 || f.importance == 6 || f.importance == 2;
    out += "  ";
    out += named && color ? kDim + f.text.substr(0, space) + kReset + f.text.substr(space) : f.text;
  }
  return out;
}

std::string Progress::plain_line() const {
  std::string out = phase_.label;
  if (phase_.steps > 0) {
    out += fmt::format("  step {}/{} ({:.0f} %)", now_.step, phase_.steps,
                       std::floor(100.0 * static_cast<double>(now_.step) / static_cast<double>(phase_.steps)));
  } else {
    out += fmt::format("  step {}", now_.step);
  }
  if (!std::isnan(now_.loss)) out += "  loss " + format_number(now_.loss);
  if (!std::isnan(now_.accuracy)) out += "  acc " + format_percent(now_.accuracy);
  if (!std::isnan(now_.learning_rate)) out += "  lr " + format_number(now_.learning_rate);
  if (rate_now() > 0) out += "  " + format_rate(rate_now(), phase_.unit);
  if (!std::isnan(now_.memory_bytes)) out += "  " + format_bytes(now_.memory_bytes);
  if (const double left = seconds_left(); !std::isnan(left)) out += "  " + format_duration(left) + " left";
  return out;
}

}  // namespace aspis::report
