#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "aspis/report/html_parts.h"
#include "aspis/report/text.h"

namespace aspis::report {
namespace {

constexpr size_t kMostPoints = 1500;  // of a curve in the file
constexpr int kWidth = 560;           // of the drawing that needs no script
constexpr int kHeight = 270;
constexpr int kLeft = 52;
constexpr int kRight = 14;
constexpr int kTop = 12;
constexpr int kBottom = 36;

enum class Thin { kMean, kLargest };

// Joins neighbours so that at most kMostPoints remain. A point without a finite
// value among its steps stays a gap.
size_t thin(PlotLine& line, Thin how) {
  const size_t n = line.x.size();
  const size_t group = (n + kMostPoints - 1) / kMostPoints;
  if (group <= 1) return 1;
  PlotLine out = line;
  out.x.clear();
  out.y.clear();
  for (size_t i = 0; i < n; i += group) {
    double sum = 0;
    double largest = -INFINITY;
    size_t count = 0;
    const size_t end = std::min(n, i + group);
    for (size_t j = i; j < end; ++j) {
      if (!std::isfinite(line.y[j])) continue;
      sum += line.y[j];
      largest = std::max(largest, line.y[j]);
      ++count;
    }
    out.x.push_back(line.x[end - 1]);
    out.y.push_back(count == 0 ? kAbsent : how == Thin::kMean ? sum / static_cast<double>(count) : largest);
  }
  line = std::move(out);
  return group;
}

bool has_value(const PlotLine& line) {
  return std::any_of(line.y.begin(), line.y.end(), [](double v) { return std::isfinite(v); });
}

struct Range {
  double low = INFINITY;
  double high = -INFINITY;
  void add(double v) {
    if (!std::isfinite(v)) return;
    low = std::min(low, v);
    high = std::max(high, v);
  }
  void pad(double share) {
    if (!(low <= high)) *this = {0, 1};
    const double d = high > low ? (high - low) * share : std::max(std::abs(high) * 0.1, 1e-9);
    low -= d;
    high += d;
  }
};

Range x_range(const Plot& plot) {
  Range r;
  for (const PlotLine& l : plot.lines) {
    for (const double x : l.x) r.add(x);
  }
  r.add(0);
  if (!(r.high > r.low)) r.high = r.low + 1;
  return r;
}

Range y_range(const Plot& plot) {
  Range r;
  for (const PlotLine& l : plot.lines) {
    // Of a noisy line single peaks may leave the picture.
    const auto& y = l.noisy ? smooth(l.y) : l.y;
    for (const double v : y) r.add(v);
    if (!l.noisy) continue;
    std::vector<double> sorted;
    std::copy_if(l.y.begin(), l.y.end(), std::back_inserter(sorted), [](double v) { return std::isfinite(v); });
    std::sort(sorted.begin(), sorted.end());
    if (sorted.empty()) continue;
    r.add(sorted[sorted.size() / 100]);
    r.add(sorted[sorted.size() - 1 - sorted.size() / 100]);
  }
  const bool positive = r.low >= 0;
  r.pad(0.06);
  if (positive) r.low = std::max(r.low, 0.0);
  if (plot.format == PlotFormat::kPercent) r.high = std::min(r.high, 1.0);
  return r;
}

std::string tick_text(double v, double step, PlotFormat format) {
  if (format == PlotFormat::kPercent) {
    const int decimals = std::max(0, -static_cast<int>(std::floor(std::log10(step * 100) + 1e-9)));
    return fmt::format("{:.{}f}\u2009%", v * 100, decimals);
  }
  if (v == 0) return "0";
  if (std::abs(v) >= 10000) return format_si(v);
  if (step < 1e-4) return fmt::format("{:.1e}", v);
  const int decimals = std::max(0, -static_cast<int>(std::floor(std::log10(step) + 1e-9)));
  return fmt::format("{:.{}f}", v, decimals);
}

// "M1 2L3 4…", with a new start after each gap.
std::string path_of(const std::vector<double>& x, const std::vector<double>& y, const Range& xs, const Range& ys) {
  std::string out;
  bool open = false;
  for (size_t i = 0; i < x.size(); ++i) {
    if (!std::isfinite(y[i]) || !std::isfinite(x[i])) {
      open = false;
      continue;
    }
    const double px = kLeft + (x[i] - xs.low) / (xs.high - xs.low) * (kWidth - kLeft - kRight);
    const double py =
        kTop + (ys.high - std::clamp(y[i], ys.low, ys.high)) / (ys.high - ys.low) * (kHeight - kTop - kBottom);
    out += fmt::format("{}{:.1f} {:.1f}", open ? 'L' : 'M', px, py);
    open = true;
  }
  return out;
}

std::string svg_axes(const Plot& plot, const Range& xs, const Range& ys) {
  std::string out;
  const auto yt = nice_ticks(ys.low, ys.high, 5);
  const double y_step = yt.size() > 1 ? yt[1] - yt[0] : 1;
  for (const double v : yt) {
    const double y = kTop + (ys.high - v) / (ys.high - ys.low) * (kHeight - kTop - kBottom);
    out += fmt::format("<line class='g' x1='{}' x2='{}' y1='{:.1f}' y2='{:.1f}'/>", kLeft, kWidth - kRight, y, y);
    out += fmt::format("<text x='{}' y='{:.1f}' text-anchor='end'>{}</text>", kLeft - 8, y + 4,
                       tick_text(v, y_step, plot.format));
  }
  const auto xt = nice_ticks(xs.low, xs.high, 6);
  const double x_step = xt.size() > 1 ? xt[1] - xt[0] : 1;
  for (const double v : xt) {
    const double x = kLeft + (v - xs.low) / (xs.high - xs.low) * (kWidth - kLeft - kRight);
    out += fmt::format("<text x='{:.1f}' y='{}' text-anchor='middle'>{}</text>", x, kHeight - kBottom + 18,
                       tick_text(v, x_step, PlotFormat::kNumber));
  }
  out += fmt::format("<text class='x' x='{}' y='{}' text-anchor='end'>{}</text>", kWidth - kRight, kHeight - 3,
                     escape_html(plot.x_name));
  return out;
}

std::string svg_line(const PlotLine& line, const Range& xs, const Range& ys) {
  const std::string raw = path_of(line.x, line.y, xs, ys);
  std::string out = fmt::format("<path class='l k{}{}' d='{}'/>", line.color, line.noisy ? " raw" : "", raw);
  if (line.noisy)
    out += fmt::format("<path class='l k{}' d='{}'/>", line.color, path_of(line.x, smooth(line.y), xs, ys));
  if (!line.marks || line.x.size() > 60) return out;
  for (size_t i = 0; i < line.x.size(); ++i) {
    if (!std::isfinite(line.y[i])) continue;
    const double px = kLeft + (line.x[i] - xs.low) / (xs.high - xs.low) * (kWidth - kLeft - kRight);
    const double py = kTop + (ys.high - line.y[i]) / (ys.high - ys.low) * (kHeight - kTop - kBottom);
    const bool best = static_cast<int>(i) == line.best;
    out += fmt::format("<circle class='m k{}{}' cx='{:.1f}' cy='{:.1f}' r='{}'/>", line.color, best ? " best" : "",
                       px, py, best ? 5 : 3);
  }
  return out;
}

std::string value_text(double v, PlotFormat format) {
  if (format == PlotFormat::kPercent) return format_percent(v, 2);
  if (format == PlotFormat::kCount) return format_count(static_cast<int64_t>(std::llround(v)));
  return format_number(v);
}

std::string last_text(const PlotLine& line, PlotFormat format) {
  const auto y = line.noisy ? smooth(line.y) : line.y;
  for (size_t i = y.size(); i-- > 0;) {
    if (std::isfinite(y[i])) return value_text(y[i], format);
  }
  return "-";
}

const char* format_name(PlotFormat format) {
  switch (format) {
    case PlotFormat::kPercent:
      return "pct";
    case PlotFormat::kCount:
      return "count";
    case PlotFormat::kNumber:
      break;
  }
  return "num";
}

std::string json_list(const std::vector<double>& values, int digits) {
  std::string out = "[";
  for (const double v : values) {
    if (out.size() > 1) out += ',';
    out += std::isfinite(v) ? fmt::format("{:.{}g}", v, digits) : "null";
  }
  return out + "]";
}

}  // namespace

std::vector<double> smooth(const std::vector<double>& y) {
  const size_t n = y.size();
  const size_t reach = std::max<size_t>(1, n / 80);
  std::vector<double> sum(n + 1);
  std::vector<size_t> count(n + 1);
  for (size_t i = 0; i < n; ++i) {
    const bool ok = std::isfinite(y[i]);
    sum[i + 1] = sum[i] + (ok ? y[i] : 0);
    count[i + 1] = count[i] + (ok ? 1 : 0);
  }
  std::vector<double> out(n);
  for (size_t i = 0; i < n; ++i) {
    // At the start the window shrinks on both sides, so that a steep fall does
    // not bend; at the end it keeps its past, so that the last value is calm.
    const size_t before = std::min(reach, i);
    const size_t after = std::min(before, n - 1 - i);
    const size_t c = count[i + after + 1] - count[i - before];
    out[i] = c > 0 ? (sum[i + after + 1] - sum[i - before]) / static_cast<double>(c) : kAbsent;
  }
  return out;
}

std::vector<double> nice_ticks(double low, double high, int wanted) {
  std::vector<double> ticks;
  if (!(high > low) || !std::isfinite(high - low)) return ticks;
  const double raw = (high - low) / wanted;
  const double power = std::pow(10.0, std::floor(std::log10(raw)));
  const double lead = raw / power;
  const double step = power * (lead < 1.5 ? 1 : lead < 3.5 ? 2 : lead < 7.5 ? 5 : 10);
  const double first = std::ceil(low / step - 1e-9);
  for (int i = 0; i < 20 && (first + i) * step <= high + step * 1e-9; ++i) ticks.push_back((first + i) * step);
  return ticks;
}

std::vector<Plot> make_plots(const ReportData& d) {
  const bool epochs = d.steps_per_epoch > 0;
  std::vector<Plot> plots;
  const auto line_of = [&](const ReportSeries& s, const char* name, int color) {
    PlotLine l{.name = name, .color = color, .x = s.step, .y = s.value};
    if (epochs) {
      for (double& x : l.x) x /= d.steps_per_epoch;
    }
    return l;
  };
  const auto add = [&](Plot plot, std::vector<PlotLine> lines, Thin how = Thin::kMean) {
    plot.x_name = epochs ? "epoch" : "step";
    size_t group = 1;
    for (PlotLine& l : lines) {
      if (!has_value(l)) continue;
      if (l.marks && l.best == 0) {
        // 0 asks for the best: the largest of an accuracy.
        l.best =
            static_cast<int>(std::max_element(l.y.begin(), l.y.end(),
                                              [](double a, double b) { return !(b <= a) && !std::isnan(b); }) -
                             l.y.begin());
      }
      group = std::max(group, thin(l, how));
      plot.lines.push_back(std::move(l));
    }
    if (group > 1)
      plot.note = fmt::format("{} of {} steps per point", how == Thin::kMean ? "mean" : "largest", group);
    if (!plot.lines.empty()) plots.push_back(std::move(plot));
  };
  auto train_loss = line_of(d.train_loss, "training", 1);
  train_loss.noisy = true;
  auto val_loss = line_of(d.val_loss, "validation", 2);
  val_loss.marks = true;
  add({.id = "loss", .title = "Loss", .log_button = true}, {train_loss, val_loss});
  auto train_acc = line_of(d.train_accuracy, "training", 1);
  train_acc.noisy = true;
  auto val_acc = line_of(d.val_accuracy, "validation", 2);
  val_acc.marks = true;
  val_acc.best = 0;
  add({.id = "accuracy", .title = "Accuracy", .format = PlotFormat::kPercent}, {train_acc, val_acc});
  add({.id = "lr", .title = "Learning rate", .log_button = true}, {line_of(d.learning_rate, "learning rate", 3)});
  auto norm = line_of(d.grad_norm, "gradient norm", 4);
  norm.noisy = true;
  add({.id = "norm", .title = "Gradient norm", .log_button = true}, {norm}, Thin::kLargest);
  auto rate = line_of(d.throughput, "images per second", 1);
  rate.noisy = true;
  add({.id = "rate", .title = "Images per second", .format = PlotFormat::kCount}, {rate});
  return plots;
}

std::string plot_card(const Plot& plot) {
  const Range xs = x_range(plot);
  const Range ys = y_range(plot);
  std::string legend;
  std::string spoken;
  bool noisy = false;
  for (const PlotLine& l : plot.lines) {
    const std::string last = last_text(l, plot.format);
    legend += fmt::format("<li><i class='sw k{}'></i>{} <b>{}</b></li>", l.color, escape_html(l.name), last);
    spoken += fmt::format("{}{} ends at {}", spoken.empty() ? "" : ", ", l.name, last);
    noisy = noisy || l.noisy;
  }
  std::string out = fmt::format("<article class='card plot' id='plot-{}' data-plot='{}'><header><h3>{}</h3>",
                                plot.id, plot.id, escape_html(plot.title));
  out += "<div class='tools'>";
  if (noisy)
    out += "<button type='button' class='toggle js' data-act='smooth' aria-pressed='true'>Smooth</button>";
  if (plot.log_button)
    out += "<button type='button' class='toggle js' data-act='log' aria-pressed='false'>Log</button>";
  out += fmt::format("</div></header><ul class='legend'>{}</ul>", legend);
  out += fmt::format("<div class='canvas'><svg viewBox='0 0 {} {}' role='img' aria-label='{} over {}: {}'>",
                     kWidth, kHeight, escape_html(plot.title), escape_html(plot.x_name), escape_html(spoken));
  out += svg_axes(plot, xs, ys);
  for (const PlotLine& l : plot.lines) out += svg_line(l, xs, ys);
  out += "</svg></div>";
  if (!plot.note.empty()) out += fmt::format("<p class='note'>{}</p>", escape_html(plot.note));
  return out + "</article>";
}

std::string script_data(const std::vector<Plot>& plots, const ReportData& data) {
  // Only numbers and words of this file: nothing of the user's text gets here.
  std::string out = fmt::format("{{\"stepsPerEpoch\":{:.10g},\"plots\":[", data.steps_per_epoch);
  for (size_t i = 0; i < plots.size(); ++i) {
    const Plot& p = plots[i];
    out += fmt::format("{}{{\"id\":\"{}\",\"title\":\"{}\",\"x\":\"{}\",\"format\":\"{}\",\"lines\":[",
                       i > 0 ? "," : "", p.id, p.title, p.x_name, format_name(p.format));
    for (size_t k = 0; k < p.lines.size(); ++k) {
      const PlotLine& l = p.lines[k];
      out += fmt::format("{}{{\"name\":\"{}\",\"k\":{},\"marks\":{},\"noisy\":{},\"best\":{},\"x\":{},\"y\":{}}}",
                         k > 0 ? "," : "", l.name, l.color, l.marks, l.noisy, l.best, json_list(l.x, 7),
                         json_list(l.y, 5));
    }
    out += "]}";
  }
  out += fmt::format("],\"grid\":[{},{}],\"scans\":[", data.grid_height, data.grid_width);
  for (size_t i = 0; i < data.scans.size(); ++i) {
    out += i > 0 ? ",[" : "[";
    for (size_t k = 0; k < data.scans[i].order.size(); ++k) {
      out += (k > 0 ? "," : "") + std::to_string(data.scans[i].order[k]);
    }
    out += "]";
  }
  return out + "]}";
}

}  // namespace aspis::report
