#include "aspis/report/curve_page.h"

#include <doctest/doctest.h>

#include <cmath>

#include "aspis/base/error.h"

using namespace aspis::report;

TEST_CASE("a page of curves draws each line, leaves gaps, and escapes what it is given") {
  CurvePlot p{.id = "m", .title = "Peak <memory>", .x_name = "tokens", .note = "a & b"};
  p.curves = {{"linear", {1, 2, 3}, {1, 2, 3}}, {"<square>", {1, 2, 3}, {1, NAN, 9}}};
  const std::string page = render_curves("Title & more", {p}, {{"machine", "\"x\""}});
  CHECK(page.find("Title &amp; more") != std::string::npos);
  CHECK(page.find("Peak &lt;memory&gt;") != std::string::npos);
  CHECK(page.find("&lt;square&gt;") != std::string::npos);
  CHECK(page.find("<square>") == std::string::npos);
  CHECK(page.find("class='l k1'") != std::string::npos);
  CHECK(page.find("class='l k2'") != std::string::npos);
  CHECK(page.find("&quot;x&quot;") != std::string::npos);
  CHECK(page.find("<script") == std::string::npos);
  size_t marks = 0;
  for (size_t at = page.find("<circle"); at != std::string::npos; at = page.find("<circle", at + 1)) marks++;
  CHECK(marks == 5);  // the gap has none
}

TEST_CASE("curves that do not fit are refused") {
  CurvePlot p{.id = "m", .title = "t", .x_name = "x"};
  p.curves = {{"a", {1, 2}, {1}}};
  CHECK_THROWS_AS(render_curves("t", {p}, {}), aspis::Error);
  p.curves.assign(6, {"a", {1}, {1}});
  CHECK_THROWS_AS(render_curves("t", {p}, {}), aspis::Error);
}
