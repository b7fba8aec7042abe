#include "aspis/report/html_report.h"

#include <fmt/format.h>

#include <cmath>

#include "aspis/base/clock.h"
#include "aspis/base/file.h"
#include "aspis/report/html_parts.h"
#include "aspis/report/text.h"

namespace aspis::report {
namespace {

struct Section {
  std::string id;
  std::string name;
  std::string body;
};

// The base64 form of a SHA-256, as content security policies want it.
std::string policy_hash(std::string_view script) {
  const std::string hex = sha256_hex(script);
  std::string bytes;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    bytes += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
  }
  return "sha256-" + base64_encode(bytes);
}

std::string tile(std::string_view name, std::string_view value, std::string_view unit, bool main = false) {
  return fmt::format("<div class='tile{}'><dt>{}</dt><dd>{}{}</dd></div>", main ? " main" : "", name,
                     escape_html(value), unit.empty() ? "" : fmt::format("<small>{}</small>", unit));
}

// "88.4 %" -> the number large, the unit small.
std::string tile_split(std::string_view name, const std::string& text, bool main = false) {
  const size_t space = text.find(' ');
  if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
    return tile(name, text, "", main);
  }
  return tile(name, text.substr(0, space), text.substr(space + 1), main);
}

std::string tiles(const ReportData& d) {
  const ReportResult& r = d.result;
  std::string out;
  if (std::isfinite(r.accuracy)) out += tile_split("Test accuracy", format_percent(r.accuracy, 2), true);
  if (std::isfinite(r.loss)) out += tile("Test loss", format_number(r.loss), "");
  if (r.best_epoch >= 0) {
    out += tile("Best epoch", std::to_string(r.best_epoch),
                r.epochs >= 0 ? "of " + std::to_string(r.epochs) : std::string());
  }
  if (std::isfinite(r.train_seconds)) out += tile("Training time", format_duration(r.train_seconds), "");
  if (std::isfinite(r.images_per_second)) {
    out += tile("Speed", format_count(std::llround(r.images_per_second)), "img/s");
  }
  if (std::isfinite(r.peak_memory_bytes)) out += tile_split("Peak memory", format_bytes(r.peak_memory_bytes));
  if (std::isfinite(r.parameters)) out += tile_split("Parameters", format_si(r.parameters));
  return out.empty() ? out : "<dl class='tiles'>" + out + "</dl>";
}

std::string fact_card(std::string_view title, const std::vector<ReportFact>& facts) {
  if (facts.empty()) return {};
  std::string out =
      fmt::format("<article class='card'><header><h3>{}</h3></header><table class='facts'><tbody>", title);
  for (const ReportFact& f : facts) {
    out += fmt::format("<tr><th scope='row'>{}</th><td>{}</td></tr>", escape_html(f.name), escape_html(f.value));
  }
  return out + "</tbody></table></article>";
}

std::string command_card(const ReportData& d) {
  if (d.command.empty()) return {};
  return "<article class='card full'><header><h3>Command</h3><div class='tools'><button type='button' "
         "class='toggle js' "
         "id='copy'>Copy</button></div></header><pre id='command' tabindex='0'>" +
         escape_html(d.command) + "</pre></article>";
}

std::string wrapped(std::string_view klass, const std::string& inner) {
  return inner.empty() ? std::string() : fmt::format("<div class='{}'>{}</div>", klass, inner);
}

std::vector<Section> make_sections(const ReportData& d, const std::vector<Plot>& plots) {
  std::string large;
  std::string small;
  for (const Plot& p : plots) (p.id == "loss" || p.id == "accuracy" ? large : small) += plot_card(p);
  std::vector<Section> list = {
      {"curves", "Learning curves", wrapped("pair", large) + wrapped("triple", small)},
      {"classes", "Classes", wrapped("split", confusion_card(d) + classes_card(d))},
      {"images", "Test images", image_grid(d)},
      {"scans", "Scan orders", scan_cards(d)},
      {"timings", "Where the time goes", timing_table(d)},
      {"setup", "Set-up",
       wrapped("columns", fact_card("Results", d.extra_results) + fact_card("Model", d.model_facts) +
                              fact_card("Training", d.training_facts) + fact_card("Data", d.dataset_facts) +
                              fact_card("Environment", d.environment)) +
           command_card(d)},
  };
  std::erase_if(list, [](const Section& s) { return s.body.empty(); });
  return list;
}

std::string subtitle(const ReportData& d) {
  std::string out;
  const auto add = [&](const std::string& text) {
    if (!text.empty())
      out += (out.empty() ? "" : "<i aria-hidden='true'>\u00b7</i>") + ("<span>" + escape_html(text) + "</span>");
  };
  add(d.model_name);
  add(d.dataset);
  std::string when = d.created;
  if (when.size() == 20 && when[10] == 'T') when = when.substr(0, 10) + " " + when.substr(11, 5) + " UTC";
  add(when);
  return out;
}

std::string state_pill(const ReportData& d) {
  if (d.state.empty()) return {};
  const bool bad = d.state == "failed";
  const bool wait = d.state == "running" || d.state == "stopped";
  return fmt::format("<span class='pill{}'>{}</span>", bad ? " fail" : wait ? " wait" : "", escape_html(d.state));
}

}  // namespace

std::string render_html(const ReportData& d) {
  check_report(d);
  const auto plots = make_plots(d);
  const auto sections = make_sections(d, plots);
  const std::string title = escape_html(d.title.empty() ? std::string("Training report") : d.title);

  std::string out =
      "<!DOCTYPE html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
      "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
      "<meta name='color-scheme' content='light dark'>\n";
  out += fmt::format(
      "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; img-src data:; style-src "
      "'unsafe-inline'; script-src '{}'; base-uri 'none'; form-action 'none'\">\n",
      policy_hash(kReportJs));
  out += fmt::format("<title>{} \u00b7 Aspis report</title>\n<style>{}</style>\n</head>\n<body>\n", title,
                     kReportCss);
  out +=
      "<a class='skip' href='#main'>Skip to the report</a>\n<nav class='topbar' aria-label='Sections'><div>"
      "<a class='brand' href='#top'>Aspis</a><ul>";
  for (const Section& s : sections) out += fmt::format("<li><a href='#{}'>{}</a></li>", s.id, s.name);
  out +=
      "</ul><button type='button' class='toggle js' id='theme' aria-label='Light or dark'>"
      "<svg viewBox='0 0 16 16' aria-hidden='true'><circle cx='8' cy='8' r='6.2'/><path d='M8 1.8A6.2 6.2 0 0 1 8 "
      "14.2Z'/></svg></button></div></nav>\n";
  out +=
      fmt::format("<main id='main'>\n<header class='hero' id='top'><h1>{}</h1><p class='sub'>{}{}</p></header>\n",
                  title, state_pill(d), subtitle(d));
  out += tiles(d);
  for (const Section& s : sections) {
    out += fmt::format("\n<section id='{}' aria-labelledby='h-{}'><h2 id='h-{}'>{}</h2>{}</section>", s.id, s.id,
                       s.id, s.name, s.body);
  }
  out +=
      "\n</main>\n<footer><p>Written by Aspis. Made again from a run folder with <code>aspis report "
      "RUN</code>.</p>"
      "</footer>\n<div id='tip' role='status' hidden></div>\n";
  out += "<script type='application/json' id='data'>" + script_data(plots, d) + "</script>\n";
  out += fmt::format("<script type='module'>{}</script>\n</body>\n</html>\n", kReportJs);
  return out;
}

}  // namespace aspis::report
