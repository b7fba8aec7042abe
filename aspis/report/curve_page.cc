#include "aspis/report/curve_page.h"

#include <fmt/format.h>

#include "aspis/base/error.h"
#include "aspis/report/html_parts.h"
#include "aspis/report/text.h"

namespace aspis::report {

std::string render_curves(const std::string& title, const std::vector<CurvePlot>& plots,
                          const std::vector<ReportFact>& facts) {
  std::string cards;
  for (const CurvePlot& p : plots) {
    require(p.curves.size() <= 5, [&] {
      return Error::Parts{.where = "plot",
                          .required = "at most five curves fit one plot",
                          .got = std::to_string(p.curves.size()),
                          .hint = {}};
    });
    Plot plot{.id = escape_html(p.id), .title = p.title, .note = p.note, .x_name = p.x_name};
    int color = 0;
    for (const Curve& c : p.curves) {
      require(c.x.size() == c.y.size(), [&] {
        return Error::Parts{.where = "plot",
                            .required = "a curve needs as many x as y",
                            .got = fmt::format("{} and {}", c.x.size(), c.y.size()),
                            .hint = {}};
      });
      plot.lines.push_back({.name = c.name, .color = ++color, .x = c.x, .y = c.y, .marks = true});
    }
    cards += plot_card(plot);
  }
  std::string table;
  for (const ReportFact& f : facts) {
    table += fmt::format("<tr><th scope='row'>{}</th><td>{}</td></tr>", escape_html(f.name), escape_html(f.value));
  }
  if (!table.empty()) {
    table = "<article class='card full'><table class='facts'><tbody>" + table + "</tbody></table></article>";
  }
  return fmt::format(
      "<!DOCTYPE html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
      "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
      "<meta name='color-scheme' content='light dark'>\n"
      "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
      "<title>{0} \u00b7 Aspis</title>\n<style>{1}</style>\n</head>\n<body>\n<main id='main'>\n"
      "<header class='hero' id='top'><h1>{0}</h1></header>\n<section><div class='pair'>{2}</div>{3}</section>\n"
      "</main>\n<footer><p>Written by Aspis.</p></footer>\n</body>\n</html>\n",
      escape_html(title), kReportCss, cards, table);
}

}  // namespace aspis::report
