#pragma once

#include "aspis/report/report_data.h"

// Data of a run as it could be, for the tests and for looking at the report:
// aspis_report_test writes it to report_sample/ in the build folder.

namespace aspis::report {

/// A grey PNG of `side` x `side` pixels, one byte each, rows from the top.
std::string make_png(int side, const std::string& pixels);

ReportData sample_report();

}  // namespace aspis::report
