#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <limits>
#include <mutex>
#include <string>
#include <string_view>

namespace aspis::report {

enum class ColorMode { kAuto, kOn, kOff };

/// "auto", "on" or "off" ("always" and "never" are understood too); throws
/// `Error(kUsage)` otherwise.
ColorMode parse_color_mode(std::string_view name);

/// Where text for people goes and what that place can show. Tests make one by
/// hand; programs use `open_terminal`.
struct Terminal {
  std::function<void(std::string_view)> write;  ///< receives bytes; empty discards them
  bool interactive = false;                     ///< a person watches: lines may be drawn over
  bool color = false;                           ///< ANSI colours are welcome
  bool utf8 = false;                            ///< characters beyond ASCII are welcome
  std::function<int()> width;                   ///< columns now; 80 where empty
};

/// The terminal (or file, or pipe) behind a descriptor. Colours: `mode` on or
/// off wins, then NO_COLOR (set and not empty: off), then CLICOLOR_FORCE (set
/// and not 0: on), then on for a terminal unless TERM is dumb or CLICOLOR is 0.
/// UTF-8 by LC_ALL, LC_CTYPE, LANG in this order. Write errors are ignored.
Terminal open_terminal(int fd, ColorMode mode = ColorMode::kAuto);

/// The two rules above as functions of the environment, for tests and tables.
bool wants_color(bool is_terminal, ColorMode mode, const std::function<const char*(const char*)>& env);
bool wants_utf8(const std::function<const char*(const char*)>& env);

inline constexpr double kAbsent = std::numeric_limits<double>::quiet_NaN();

/// A piece of work that has steps: one epoch, one evaluation.
struct ProgressPhase {
  std::string label = {};      ///< "epoch 2/5", "evaluate"
  int64_t steps = 0;           ///< number of steps; 0 if not known
  int64_t later_steps = 0;     ///< steps of the same kind that follow this phase: counted in the time left
  std::string unit = "img/s";  ///< of the rate
};

/// What is known after one step. NaN values are not shown.
struct ProgressStep {
  int64_t step = 0;   ///< steps of this phase that are done
  int64_t items = 0;  ///< images (or tokens) of this step
  double loss = kAbsent;
  double accuracy = kAbsent;  ///< fraction
  double learning_rate = kAbsent;
  double memory_bytes = kAbsent;
};

/// The line that stays after an epoch. NaN values are left out.
struct EpochSummary {
  int64_t epoch = 0;
  int64_t epochs = 0;
  double train_loss = kAbsent;
  double train_accuracy = kAbsent;
  double val_loss = kAbsent;
  double val_accuracy = kAbsent;
  bool best = false;
  double seconds = kAbsent;
};

struct ProgressOptions {
  bool quiet = false;             ///< nothing but `message` is written
  double redraw_seconds = 0.1;    ///< shortest time between two drawings of the bar
  double line_seconds = 5;        ///< time between two plain lines
  std::function<double()> clock;  ///< seconds; monotonic_seconds() where empty
};

/// Progress of training and evaluation: a bar that is drawn over on a terminal,
/// plain lines every few seconds elsewhere, one lasting line per epoch. All
/// calls may come from any thread.
class Progress {
 public:
  explicit Progress(Terminal terminal, ProgressOptions options = {});
  ~Progress();  ///< takes the bar away
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void begin(ProgressPhase phase);
  void step(const ProgressStep& now);
  /// Ends the phase and takes the bar away.
  void end();
  void epoch(const EpochSummary& summary);
  /// A lasting line, e.g. of the log; an open bar is drawn again below it.
  void message(std::string_view line);

  /// Items per second over the last seconds; 0 before two steps.
  double rate() const;

 private:
  std::string bar_line(int width) const;
  std::string plain_line() const;
  void clear_bar();
  void draw(double now);
  double rate_now() const;
  double seconds_left() const;

  Terminal terminal_;
  ProgressOptions options_;
  mutable std::mutex mutex_;
  ProgressPhase phase_;
  ProgressStep now_;
  bool open_ = false;
  bool drawn_ = false;
  double last_output_ = 0;
  struct Sample {
    double time;
    int64_t items;
    int64_t step;
  };
  std::deque<Sample> samples_;  // the last seconds, for the rate
  int64_t items_ = 0;
};

/// The lasting line of an epoch without its line end, as `Progress` prints it.
std::string format_epoch(const EpochSummary& summary, bool color, bool utf8);

}  // namespace aspis::report
