#include "aspis/report/table.h"

#include <doctest/doctest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "aspis/base/error.h"
#include "aspis/report/text.h"

namespace aspis::report {
namespace {

Table sample() {
  Table t({{.key = "name", .title = "operator"},
           {.key = "forward_ms", .title = "forward", .right_align = true},
           {.key = "fused", .title = {}}});
  t.add_row({"selective_scan", Cell(1.5, "1.50 ms"), true});
  t.add_row({"a,\"b\"", Cell(std::nan("")), false});
  t.add_row({Cell(), 7, true});
  return t;
}

TEST_CASE("a column for machines is in CSV and JSON only") {
  Table t({{"a", "A"}, {"hidden", "Hidden", false, true}, {"b", "B"}});
  t.add_row({"1", "secret", "2"});
  for (const TableFormat f : {TableFormat::kText, TableFormat::kMarkdown}) {
    CHECK(t.render(f).find("Hidden") == std::string::npos);
    CHECK(t.render(f).find("secret") == std::string::npos);
    CHECK(t.render(f).find('2') != std::string::npos);
  }
  CHECK(t.render(TableFormat::kCsv) == "a,hidden,b\n1,secret,2\n");
  CHECK(t.render(TableFormat::kJson).find("secret") != std::string::npos);
}

TEST_CASE("numbers are written for people") {
  CHECK(format_count(0) == "0");
  CHECK(format_count(999) == "999");
  CHECK(format_count(1000) == "1,000");
  CHECK(format_count(-1234567) == "-1,234,567");
  CHECK(format_count(INT64_MIN) == "-9,223,372,036,854,775,808");
  CHECK(format_si(0) == "0");
  CHECK(format_si(847) == "847");
  CHECK(format_si(1234) == "1.23 k");
  CHECK(format_si(999600) == "1.00 M");
  CHECK(format_si(26.54e6) == "26.5 M");
  CHECK(format_si(NAN) == "-");
  CHECK(format_percent(0.88437) == "88.4 %");
  CHECK(format_percent(1, 2) == "100.00 %");
  CHECK(format_number(0.41234) == "0.4123");
  CHECK(format_number(12.3456) == "12.35");
  CHECK(format_number(12345.6) == "12346");
  CHECK(format_number(1.2e-5) == "1.2e-05");
  CHECK(format_number(0) == "0");
  CHECK(format_number(-INFINITY) == "-inf");
  CHECK(format_exact(0.1) == "0.1");
  CHECK(format_exact(1.0 / 3) == "0.3333333333333333");
}

TEST_CASE("text table aligns columns and leaves no space at line ends") {
  CHECK(sample().render(TableFormat::kText) ==
        "operator        forward  fused\n"
        "------------------------------\n"
        "selective_scan  1.50 ms  yes\n"
        "a,\"b\"                 -  no\n"
        "-                     7  yes\n");
}

TEST_CASE("text table counts code points, shortens to the width and hides control characters") {
  Table t({{.key = "name", .title = {}}, {.key = "n", .title = {}, .right_align = true}});
  t.add_row(
      {"Stra\xC3\x9F"
       "e",
       1});
  t.add_row({"a very long file name\x1b[31m", 22});
  CHECK(t.render(TableFormat::kText, {.color = false, .utf8 = true, .max_width = 14}) ==
        "name         n\n"
        "──────────────\n"
        "Straße       1\n"
        "a very lo…  22\n");
  const std::string wide = t.render(TableFormat::kText);
  CHECK(wide.find('\x1b') == std::string::npos);
}

TEST_CASE("csv follows RFC 4180 and keeps exact values") {
  CHECK(sample().render(TableFormat::kCsv) ==
        "name,forward_ms,fused\n"
        "selective_scan,1.5,true\n"
        "\"a,\"\"b\"\"\",,false\n"
        ",7,true\n");
}

TEST_CASE("markdown escapes the column sign") {
  Table t({{.key = "a|b", .title = {}}, {.key = "n", .title = {}, .right_align = true}});
  t.add_row({"x|y", 2});
  CHECK(t.render(TableFormat::kMarkdown) == "| a\\|b | n |\n|---|---:|\n| x\\|y | 2 |\n");
}

TEST_CASE("json keeps types and column order and is valid for any text") {
  Table t = sample();
  t.add_row({"bad \xFF byte \"quote\"", INFINITY, false});
  const auto j = nlohmann::ordered_json::parse(t.render(TableFormat::kJson));
  REQUIRE(j.size() == 4);
  CHECK(j[0].dump() == R"({"name":"selective_scan","forward_ms":1.5,"fused":true})");
  CHECK(j[1]["forward_ms"].is_null());
  CHECK(j[2]["name"].is_null());
  CHECK(j[2]["forward_ms"] == 7);
  CHECK(j[3]["name"] == "bad \xEF\xBF\xBD byte \"quote\"");
  CHECK(j[3]["forward_ms"] == "inf");

  const std::string lines = t.render(TableFormat::kJsonl);
  CHECK(std::count(lines.begin(), lines.end(), '\n') == 4);
  CHECK(nlohmann::json::parse(lines.substr(0, lines.find('\n')))["fused"] == true);
  CHECK(Table(std::vector<Column>{{.key = "a", .title = {}}}).render(TableFormat::kJson) == "[]\n");
}

TEST_CASE("table refuses a row of another width and an unknown format") {
  Table t(std::vector<Column>{{.key = "a", .title = {}}});
  CHECK_THROWS_AS(t.add_row({1, 2}), Error);
  CHECK(parse_table_format("md") == TableFormat::kMarkdown);
  CHECK_THROWS_WITH_AS(parse_table_format("jsn"), doctest::Contains("json"), Error);
}

TEST_CASE("base64 reads back and refuses other text") {
  for (const std::string s : {"", "f", "fo", "foo", "foob", "fooba", "foobar"}) {
    CHECK(base64_decode(base64_encode(s), "x") == s);
  }
  CHECK(base64_encode("foobar") == "Zm9vYmFy");
  CHECK(base64_encode("fo") == "Zm8=");
  std::string all;
  for (int i = 0; i < 256; ++i) all += static_cast<char>(i);
  CHECK(base64_decode(base64_encode(all), "x") == all);
  for (const char* bad : {"Zm8", "Zm8?", "=m88", "Zm=8", "Zg==Zg==", "Z==="}) {
    CAPTURE(bad);
    CHECK_THROWS_WITH_AS(base64_decode(bad, "report.json"), doctest::Contains("report.json"), Error);
  }
}

TEST_CASE("html text is escaped") {
  CHECK(escape_html("<b a='1' c=\"2\">&amp;</b>") == "&lt;b a=&#39;1&#39; c=&quot;2&quot;&gt;&amp;amp;&lt;/b&gt;");
  CHECK(escape_html(std::string("a\0b\x1b\xFF", 5)) ==
        "a\xEF\xBF\xBD"
        "b\xEF\xBF\xBD\xEF\xBF\xBD");
}

TEST_CASE("shorten cuts between code points") {
  CHECK(shorten("abc", 3, true) == "abc");
  CHECK(shorten("abcd", 3, false) == "ab~");
  CHECK(shorten("äöüß", 3, true) == "äö…");
  CHECK(shorten("abc", 0, true).empty());
}

}  // namespace
}  // namespace aspis::report
