#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "aspis/base/clock.h"
#include "aspis/report/html_parts.h"
#include "aspis/report/text.h"

namespace aspis::report {
namespace {

constexpr size_t kMostClassesAsTable = 24;
constexpr size_t kMostClassesAsMap = 250;
constexpr size_t kMostImages = 60;
constexpr size_t kMostErrors = 40;
constexpr size_t kMostImageBytes = 1200000;  // as PNG
constexpr int kMostCellsShaded = 1024;

int64_t row_sum(const std::vector<int64_t>& row) { return std::accumulate(row.begin(), row.end(), int64_t{0}); }

double share_of(int64_t part, int64_t whole) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0;
}

std::string confusion_table(const ReportData& d) {
  std::string out =
      "<div class='scroll'><table class='confusion'><caption class='sr'>Confusion matrix: a row for each "
      "true class, a column for each predicted class, counts of test images</caption><thead><tr>"
      "<th scope='col' class='corner'><span>true \u2193&ensp;predicted \u2192</span></th>";
  for (const auto& name : d.class_names) {
    out += fmt::format("<th scope='col'><span>{}</span></th>", escape_html(name));
  }
  out += "</tr></thead><tbody>";
  for (size_t i = 0; i < d.confusion.size(); ++i) {
    const int64_t total = row_sum(d.confusion[i]);
    const std::string truth = escape_html(d.class_names[i]);
    out += fmt::format("<tr><th scope='row'>{}</th>", truth);
    for (size_t j = 0; j < d.confusion.size(); ++j) {
      const int64_t n = d.confusion[i][j];
      const double share = share_of(n, total);
      // The root makes rare mistakes visible beside the diagonal.
      const double alpha = i == j ? share : std::min(1.0, std::sqrt(share) * 1.3);
      const char* kind = i == j ? "d" : "e";
      if (n == 0) {
        out += "<td class='z'>0</td>";
        continue;
      }
      out += fmt::format(
          "<td class='{}{}' style='--a:{:.2f}' title='{} images of {} taken for {} ({} of its row)'>{}</td>", kind,
          alpha > 0.6 ? " hi" : "", std::max(0.06, alpha), format_count(n), truth, escape_html(d.class_names[j]),
          format_percent(share), n);
    }
    out += "</tr>";
  }
  return out + "</tbody></table></div>";
}

// For many classes: one square per count, without numbers.
std::string confusion_map(const ReportData& d) {
  const size_t n = d.confusion.size();
  std::string out = fmt::format(
      "<svg class='map' viewBox='0 0 {0} {0}' role='img' aria-label='Confusion matrix of {0} "
      "classes as a heat map; rows are true, columns predicted classes'>",
      n);
  for (size_t i = 0; i < n; ++i) {
    const int64_t total = row_sum(d.confusion[i]);
    for (size_t j = 0; j < n; ++j) {
      const int64_t count = d.confusion[i][j];
      if (count == 0) continue;
      const double share = share_of(count, total);
      out += fmt::format("<rect class='{}' x='{}' y='{}' width='1' height='1' opacity='{:.2f}'/>",
                         i == j ? "d" : "e", j, i, std::clamp(i == j ? share : std::sqrt(share) * 1.3, 0.1, 1.0));
    }
  }
  return out +
         "</svg><p class='note'>Rows are true classes, columns predicted ones, in the order of the list.</p>";
}

struct Mistake {
  size_t truth;
  size_t predicted;
  int64_t count;
};

std::vector<Mistake> most_confused(const ReportData& d, size_t most) {
  std::vector<Mistake> list;
  for (size_t i = 0; i < d.confusion.size(); ++i) {
    for (size_t j = 0; j < d.confusion.size(); ++j) {
      if (i != j && d.confusion[i][j] > 0) list.push_back({i, j, d.confusion[i][j]});
    }
  }
  std::stable_sort(list.begin(), list.end(), [](const Mistake& a, const Mistake& b) { return a.count > b.count; });
  if (list.size() > most) list.resize(most);
  return list;
}

// The images to show: mistakes first, the surest of them at the front.
std::vector<const ReportImage*> chosen_images(const ReportData& d) {
  std::vector<const ReportImage*> wrong;
  std::vector<const ReportImage*> right;
  for (const ReportImage& i : d.images) {
    if (i.png.empty()) continue;
    (i.label == i.predicted ? right : wrong).push_back(&i);
  }
  const auto sureness = [](const ReportImage* i) { return std::isfinite(i->probability) ? i->probability : -1; };
  std::stable_sort(wrong.begin(), wrong.end(),
                   [&](const ReportImage* a, const ReportImage* b) { return sureness(a) > sureness(b); });
  if (wrong.size() > kMostErrors && !right.empty()) wrong.resize(kMostErrors);
  wrong.insert(wrong.end(), right.begin(), right.end());
  if (wrong.size() > kMostImages) wrong.resize(kMostImages);
  size_t bytes = 0;
  size_t n = 0;
  while (n < wrong.size() && (bytes += wrong[n]->png.size()) <= kMostImageBytes) ++n;
  wrong.resize(n);
  return wrong;
}

const char* image_type(std::string_view bytes) {
  return bytes.starts_with("\xFF\xD8") ? "image/jpeg" : "image/png";
}

struct Point {
  double x;
  double y;
};

constexpr double kCell = 20;

Point centre(const ReportData& d, int32_t cell) {
  const int32_t row = cell / d.grid_width;
  const int32_t column = cell % d.grid_width;
  return {(column + 0.5) * kCell, (row + 0.5) * kCell};
}

// A triangle on the middle of a step, pointing along it.
std::string arrow(Point a, Point b) {
  const double degrees = std::atan2(b.y - a.y, b.x - a.x) * 180 / 3.14159265358979323846;
  return fmt::format("<path class='ar' d='M4 0L-3 -4V4Z' transform='translate({:.1f} {:.1f}) rotate({:.0f})'/>",
                     (a.x + b.x) / 2, (a.y + b.y) / 2, degrees);
}

std::string scan_svg(const ReportData& d, const ReportScan& scan, size_t index) {
  const double w = d.grid_width * kCell;
  const double h = d.grid_height * kCell;
  const size_t n = scan.order.size();
  std::string cells;
  if (n <= static_cast<size_t>(kMostCellsShaded)) {
    for (size_t k = 0; k < n; ++k) {
      const Point p = centre(d, scan.order[k]);
      // Shade tells the time of the visit: from pale to full.
      cells += fmt::format("<rect x='{:.0f}' y='{:.0f}' width='18' height='18' rx='3' style='--a:{:.2f}'/>",
                           p.x - 9, p.y - 9,
                           0.07 + 0.48 * static_cast<double>(k) / static_cast<double>(std::max<size_t>(1, n - 1)));
    }
  }
  std::string path;
  std::string jumps;
  std::string arrows;
  const size_t every = std::max<size_t>(1, n / 14);
  size_t since = every / 2;
  for (size_t k = 0; k < n; ++k) {
    const Point p = centre(d, scan.order[k]);
    const bool first = k == 0;
    const Point q = first ? p : centre(d, scan.order[k - 1]);
    const bool near = !first && std::abs(p.x - q.x) + std::abs(p.y - q.y) <= kCell * 1.01;
    path += fmt::format("{}{:.0f} {:.0f}", near ? 'L' : 'M', p.x, p.y);
    if (!first && !near) jumps += fmt::format("M{:.0f} {:.0f}L{:.0f} {:.0f}", q.x, q.y, p.x, p.y);
    if (near && ++since >= every) {
      arrows += arrow(q, p);
      since = 0;
    }
  }
  const Point start = centre(d, scan.order.front());
  const Point end = centre(d, scan.order.back());
  return fmt::format(
      "<svg viewBox='-4 -4 {:.0f} {:.0f}' role='img' data-scan='{}' aria-label='Scan order {}: {} patches in a "
      "grid of {} "
      "by {}, first in row {} column {}, last in row {} column {}'>"
      "<g class='cells'>{}</g><path class='jump' d='{}'/><path class='way' d='{}'/>{}"
      "<circle class='start' cx='{:.0f}' cy='{:.0f}' r='6'/>"
      "<rect class='end' x='{:.0f}' y='{:.0f}' width='11' height='11' rx='2'/><circle class='head' r='6'/></svg>",
      w + 8, h + 8, index, escape_html(scan.name), n, d.grid_height, d.grid_width,
      scan.order.front() / d.grid_width + 1, scan.order.front() % d.grid_width + 1,
      scan.order.back() / d.grid_width + 1, scan.order.back() % d.grid_width + 1, cells, jumps, path, arrows,
      start.x, start.y, end.x - 5.5, end.y - 5.5);
}

}  // namespace

std::string confusion_card(const ReportData& d) {
  if (d.confusion.empty() || d.confusion.size() > kMostClassesAsMap) return {};
  return "<article class='card tips wide'><header><h3>Confusion matrix</h3></header>" +
         (d.confusion.size() <= kMostClassesAsTable ? confusion_table(d) : confusion_map(d)) + "</article>";
}

std::string classes_card(const ReportData& d) {
  if (d.confusion.empty()) return {};
  struct Class {
    size_t index;
    double accuracy;
  };
  std::vector<Class> classes;
  for (size_t i = 0; i < d.confusion.size(); ++i) {
    const int64_t total = row_sum(d.confusion[i]);
    if (total > 0) classes.push_back({i, share_of(d.confusion[i][i], total)});
  }
  std::stable_sort(classes.begin(), classes.end(),
                   [](const Class& a, const Class& b) { return a.accuracy < b.accuracy; });
  const size_t all = classes.size();
  if (classes.size() > kMostClassesAsTable) classes.resize(kMostClassesAsTable);
  std::string out = fmt::format(
      "<article class='card'><header><h3>Accuracy per class</h3></header>"
      "<table class='bars'><caption class='note'>{}</caption><tbody>",
      all > classes.size() ? fmt::format("the {} weakest of {}", classes.size(), all)
                           : std::string("weakest first"));
  for (const Class& c : classes) {
    out += fmt::format(
        "<tr><th scope='row'>{}</th><td class='bar'><i style='width:{:.1f}%'></i></td><td>{}</td></tr>",
        escape_html(d.class_names[c.index]), c.accuracy * 100, format_percent(c.accuracy));
  }
  out += "</tbody></table>";
  const auto pairs = most_confused(d, 5);
  if (!pairs.empty()) {
    out += "<h4>Most frequent mistakes</h4><table class='facts pairs'><tbody>";
    for (const Mistake& m : pairs) {
      out += fmt::format("<tr><th scope='row'>{} <span class='to'>taken for</span> {}</th><td>{}</td></tr>",
                         escape_html(d.class_names[m.truth]), escape_html(d.class_names[m.predicted]),
                         format_count(m.count));
    }
    out += "</tbody></table>";
  }
  return out + "</article>";
}

std::string image_grid(const ReportData& d) {
  const auto images = chosen_images(d);
  if (images.empty()) return {};
  const auto wrong = static_cast<size_t>(
      std::count_if(images.begin(), images.end(), [](const ReportImage* i) { return i->label != i->predicted; }));
  std::string out = fmt::format(
      "<p class='lead'>{} images, {} mistakes first. Below each: what the model says and how "
      "sure it is; for mistakes also what it is.</p><div class='images'>",
      images.size(), wrong);
  for (const ReportImage* i : images) {
    const bool bad = i->label != i->predicted;
    const std::string truth = escape_html(d.class_names[static_cast<size_t>(i->label)]);
    const std::string said = escape_html(d.class_names[static_cast<size_t>(i->predicted)]);
    const std::string sure = std::isfinite(i->probability) ? format_percent(i->probability, 0) : std::string();
    out += fmt::format(
        "<figure class='{}'><img src='data:{};base64,{}' alt='{}{}{}, predicted {} {}' loading='lazy'>",
        bad ? "bad" : "good", image_type(i->png), base64_encode(i->png), escape_html(i->name),
        i->name.empty() ? "" : ": ", truth, said, sure);
    out += fmt::format("<figcaption><b>{}</b> <span>{}</span>", said, sure);
    if (bad) out += fmt::format("<em>is {}</em>", truth);
    out += "</figcaption></figure>";
  }
  return out + "</div>";
}

std::string scan_cards(const ReportData& d) {
  if (d.scans.empty()) return {};
  std::string out = fmt::format(
      "<div class='scanhead'><p class='lead'>The {} patches of an image ({} rows, {} columns) are read in {} "
      "order{}. Paler "
      "patches come first.</p><ul class='legend'><li><svg viewBox='0 0 12 12'><circle class='start' cx='6' cy='6' "
      "r='5'/>"
      "</svg>start</li><li><svg viewBox='0 0 12 12'><rect class='end' x='1' y='1' width='10' height='10' "
      "rx='2'/></svg>"
      "end</li><li><svg viewBox='0 0 20 12'><path class='jump' d='M0 6H20'/></svg>jump</li></ul>"
      "<button type='button' class='toggle js' id='play'>Play</button></div><div class='scans'>",
      d.grid_height * d.grid_width, d.grid_height, d.grid_width, d.scans.size(), d.scans.size() == 1 ? "" : "s");
  for (size_t i = 0; i < d.scans.size(); ++i) {
    out += fmt::format("<figure class='card'>{}<figcaption>{}</figcaption></figure>", scan_svg(d, d.scans[i], i),
                       escape_html(d.scans[i].name));
  }
  return out + "</div>";
}

std::string timing_table(const ReportData& d) {
  if (d.timings.empty()) return {};
  double total = 0;
  auto sorted = d.timings;
  for (auto& t : sorted) {
    if (!std::isfinite(t.seconds)) t.seconds = 0;
    total += t.seconds;
  }
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const ReportTiming& a, const ReportTiming& b) { return a.seconds > b.seconds; });
  std::string out =
      "<article class='card'><div class='scroll'><table class='timings'><thead><tr><th scope='col'>operation"
      "</th><th scope='col' class='n'>calls</th><th scope='col' class='n'>time</th><th scope='col' class='n'>"
      "share</th><th scope='col'><span class='sr'>share as a bar</span></th><th scope='col'>note</th></tr>"
      "</thead><tbody>";
  for (const auto& t : sorted) {
    const double share = total > 0 ? t.seconds / total : 0;
    out += fmt::format(
        "<tr><th scope='row'>{}</th><td class='n'>{}</td><td class='n'>{}</td><td class='n'>{}</td>"
        "<td class='bar'><i style='width:{:.1f}%'></i></td><td>{}</td></tr>",
        escape_html(t.name), format_count(t.calls), format_duration(t.seconds), format_percent(share), share * 100,
        escape_html(t.note));
  }
  return out + "</tbody></table></div></article>";
}

}  // namespace aspis::report
