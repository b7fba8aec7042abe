#pragma once

#include <string>
#include <vector>

#include "aspis/report/report_data.h"

namespace aspis::report {

/// One line of a plot. Values that are not finite leave a gap.
struct Curve {
  std::string name;
  std::vector<double> x, y;
};

/// A plot of up to five lines over one axis.
struct CurvePlot {
  std::string id = {};  ///< for links: letters, digits, "-"
  std::string title = {};
  std::string x_name = {};
  std::string note = {};  ///< below the drawing
  std::vector<Curve> curves = {};
};

/// A page of its own, without script, with the look of the training report: the
/// plots as SVG, the facts as a table. Throws Error(kUsage) for a curve whose x
/// and y differ in length and for more than five curves.
std::string render_curves(const std::string& title, const std::vector<CurvePlot>& plots,
                          const std::vector<ReportFact>& facts);

}  // namespace aspis::report
