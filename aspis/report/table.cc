#include "aspis/report/table.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <nlohmann/json.hpp>

#include "aspis/base/error.h"
#include "aspis/base/utf8.h"
#include "aspis/report/text.h"

namespace aspis::report {
namespace {

constexpr std::array<std::string_view, 5> kFormats = {"text", "md", "csv", "json", "jsonl"};

bool is_absent(const Cell& cell) {
  if (const auto* d = std::get_if<double>(&cell.value)) return std::isnan(*d);
  return std::holds_alternative<std::monostate>(cell.value);
}

// Exact for machines, rounded for people.
std::string plain(const Cell& cell, bool exact) {
  if (const auto* b = std::get_if<bool>(&cell.value)) return exact ? (*b ? "true" : "false") : (*b ? "yes" : "no");
  if (const auto* i = std::get_if<int64_t>(&cell.value)) return std::to_string(*i);
  if (const auto* d = std::get_if<double>(&cell.value)) return exact ? format_exact(*d) : format_number(*d);
  if (const auto* s = std::get_if<std::string>(&cell.value)) return *s;
  return {};
}

// One line, no control characters: a terminal must not obey a file name.
std::string shown(const Cell& cell) {
  if (cell.text.empty() && is_absent(cell)) return "-";
  std::string text = to_valid_utf8(cell.text.empty() ? plain(cell, false) : cell.text);
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  return text;
}

std::string padded(const std::string& text, size_t width, bool right) {
  const size_t length = utf8_length(text);
  const std::string fill(width > length ? width - length : 0, ' ');
  return right ? fill + text : text + fill;
}

std::string markdown_text(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '|' || c == '\\') out += '\\';
    out += c;
  }
  return out;
}

}  // namespace

TableFormat parse_table_format(std::string_view name) {
  const auto it = std::find(kFormats.begin(), kFormats.end(), name);
  if (it != kFormats.end()) return static_cast<TableFormat>(it - kFormats.begin());
  const std::string near = nearest_word(name, kFormats);
  throw Error(ErrorKind::kUsage, {.where = "format",
                                  .required = "the format must be one of text, md, csv, json, jsonl",
                                  .got = "'" + std::string(name) + "'",
                                  .hint = near.empty() ? std::string() : "'" + near + "'"});
}

Table::Table(std::vector<Column> columns) : columns_(std::move(columns)) {
  for (Column& c : columns_) {
    if (c.title.empty()) c.title = c.key;
  }
}

void Table::add_row(std::vector<Cell> cells) {
  require(cells.size() == columns_.size(), [&] {
    return Error::Parts{.where = "table",
                        .required = "a row must have " + std::to_string(columns_.size()) + " cells",
                        .got = std::to_string(cells.size()),
                        .hint = {}};
  });
  rows_.push_back(std::move(cells));
}

void Table::add_rule() { rules_.push_back(rows_.size()); }

std::string Table::render(TableFormat format, const TableStyle& style) const {
  switch (format) {
    case TableFormat::kText:
      return for_people().render_text(style);
    case TableFormat::kMarkdown:
      return for_people().render_markdown();
    case TableFormat::kCsv:
      return render_csv();
    case TableFormat::kJson:
      return render_json(false);
    case TableFormat::kJsonl:
      return render_json(true);
  }
  return {};
}

Table Table::for_people() const {
  std::vector<Column> columns;
  for (const Column& c : columns_) {
    if (!c.machines_only) columns.push_back(c);
  }
  Table shown_table(std::move(columns));
  shown_table.rules_ = rules_;
  for (const auto& row : rows_) {
    std::vector<Cell> cells;
    for (size_t j = 0; j < row.size(); ++j) {
      if (!columns_[j].machines_only) cells.push_back(row[j]);
    }
    shown_table.rows_.push_back(std::move(cells));
  }
  return shown_table;
}

std::string Table::render_text(const TableStyle& style) const {
  const size_t n = columns_.size();
  std::vector<size_t> width(n);
  std::vector<std::vector<std::string>> text(rows_.size(), std::vector<std::string>(n));
  for (size_t j = 0; j < n; ++j) {
    width[j] = utf8_length(columns_[j].title);
    for (size_t i = 0; i < rows_.size(); ++i) {
      text[i][j] = shown(rows_[i][j]);
      width[j] = std::max(width[j], utf8_length(text[i][j]));
    }
  }
  size_t total = n > 0 ? 2 * (n - 1) : 0;
  for (const size_t w : width) total += w;
  constexpr size_t kNarrowest = 8;
  while (style.max_width > 0 && total > static_cast<size_t>(style.max_width)) {
    size_t widest = n;
    for (size_t j = 0; j < n; ++j) {
      if (!columns_[j].right_align && width[j] > kNarrowest && (widest == n || width[j] > width[widest]))
        widest = j;
    }
    if (widest == n) break;
    --width[widest];
    --total;
  }
  std::string rule;
  for (size_t k = 0; k < total; ++k) rule += style.utf8 ? "\xE2\x94\x80" : "-";

  const auto line = [&](const std::vector<std::string>& cells) {
    std::string out;
    for (size_t j = 0; j < n; ++j) {
      if (j > 0) out += "  ";
      out += padded(shorten(cells[j], width[j], style.utf8), width[j], columns_[j].right_align);
    }
    out.erase(out.find_last_not_of(' ') + 1);
    return out;
  };
  std::vector<std::string> titles;
  for (const Column& c : columns_) titles.push_back(c.title);
  std::string out = (style.color ? "\x1b[1m" : "") + line(titles) + (style.color ? "\x1b[0m\n" : "\n");
  const std::string ruled = (style.color ? "\x1b[2m" : "") + rule + (style.color ? "\x1b[0m\n" : "\n");
  out += ruled;
  for (size_t i = 0; i < rows_.size(); ++i) {
    if (i > 0 && std::find(rules_.begin(), rules_.end(), i) != rules_.end()) out += ruled;
    out += line(text[i]) + "\n";
  }
  return out;
}

std::string Table::render_markdown() const {
  std::string out = "|";
  for (const Column& c : columns_) out += " " + markdown_text(c.title) + " |";
  out += "\n|";
  for (const Column& c : columns_) out += c.right_align ? "---:|" : "---|";
  out += "\n";
  for (const auto& row : rows_) {
    out += "|";
    for (const Cell& cell : row) out += " " + markdown_text(shown(cell)) + " |";
    out += "\n";
  }
  return out;
}

std::string Table::render_csv() const {
  std::string out;
  for (size_t j = 0; j < columns_.size(); ++j) out += (j > 0 ? "," : "") + csv_field(columns_[j].key);
  out += "\n";
  for (const auto& row : rows_) {
    for (size_t j = 0; j < row.size(); ++j) {
      if (j > 0) out += ",";
      if (!is_absent(row[j])) out += csv_field(plain(row[j], true));
    }
    out += "\n";
  }
  return out;
}

std::string Table::render_json(bool lines) const {
  auto list = nlohmann::ordered_json::array();
  for (const auto& row : rows_) {
    nlohmann::ordered_json object;
    for (size_t j = 0; j < row.size(); ++j) {
      auto& slot = object[to_valid_utf8(columns_[j].key)];
      if (is_absent(row[j])) continue;  // stays null
      if (const auto* b = std::get_if<bool>(&row[j].value)) {
        slot = *b;
      } else if (const auto* i = std::get_if<int64_t>(&row[j].value)) {
        slot = *i;
      } else if (const auto* d = std::get_if<double>(&row[j].value); d && std::isfinite(*d)) {
        slot = *d;
      } else {
        slot = to_valid_utf8(plain(row[j], true));
      }
    }
    list.push_back(std::move(object));
  }
  if (!lines) return list.dump(2) + "\n";
  std::string out;
  for (const auto& object : list) out += object.dump() + "\n";
  return out;
}

}  // namespace aspis::report
