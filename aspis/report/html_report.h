#pragma once

#include <string>

#include "aspis/report/report_data.h"

namespace aspis::report {

/// The report as one HTML file that needs nothing else: no request leaves it.
/// Curves, tables, heat map and drawings are there without JavaScript; with it
/// curves get read-outs, smoothing, a logarithmic axis and the width of the
/// window. Follows the light or dark preference of the reader. All text is
/// escaped; the one script is allowed by its hash, so nothing else can run.
/// Throws as `check_report`.
std::string render_html(const ReportData& data);

}  // namespace aspis::report
