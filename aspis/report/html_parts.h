#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "aspis/report/report_data.h"

// The parts of the HTML report; only html_report.cc puts them together. Each
// function gives "" if its data are empty. The data have passed check_report.

namespace aspis::report {

// assets/ as text, from assets.cc.in.
extern const std::string_view kReportCss;
extern const std::string_view kReportJs;

/// How values of a plot are written.
enum class PlotFormat { kNumber, kPercent, kCount };

struct PlotLine {
  std::string name = {};
  int color = 1;  ///< 1 to 5: the categorical palette of report.css
  std::vector<double> x = {};
  std::vector<double> y = {};
  bool marks = false;  ///< a point at each value
  bool noisy = false;  ///< drawn faint, with a smoothed line over it
  int best = -1;       ///< index of a value to emphasise
};

struct Plot {
  std::string id = {};
  std::string title = {};
  std::string note = {};    ///< below the title; may be empty
  std::string x_name = {};  ///< "epoch" or "step"
  PlotFormat format = PlotFormat::kNumber;
  bool log_button = false;
  std::vector<PlotLine> lines = {};
};

/// The curves of a run, thinned to a few thousand values each.
std::vector<Plot> make_plots(const ReportData& data);

/// Moving average over about a fortieth of the values, centred except at the
/// end; non-finite ones are left out of it.
std::vector<double> smooth(const std::vector<double>& y);

/// Round tick values within [low, high], about `wanted` of them.
std::vector<double> nice_ticks(double low, double high, int wanted);

/// A card with title, legend, buttons and the drawing as SVG.
std::string plot_card(const Plot& plot);

/// The plots and scan orders for the script, as JSON that is safe inside a
/// script element.
std::string script_data(const std::vector<Plot>& plots, const ReportData& data);

std::string confusion_card(const ReportData& data);
std::string classes_card(const ReportData& data);
std::string image_grid(const ReportData& data);
std::string scan_cards(const ReportData& data);
std::string timing_table(const ReportData& data);

}  // namespace aspis::report
