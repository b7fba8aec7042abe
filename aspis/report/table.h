#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

namespace aspis::report {

enum class TableFormat { kText, kMarkdown, kCsv, kJson, kJsonl };

/// "text", "md", "csv", "json" or "jsonl"; throws `Error(kUsage)` with the
/// nearest word otherwise.
TableFormat parse_table_format(std::string_view name);

/// One value of a table: what machines get (`value`) and what people see
/// (`text`; made from the value if empty). An absent value is null in JSON,
/// empty in CSV and "-" elsewhere.
struct Cell {
  std::variant<std::monostate, bool, int64_t, double, std::string> value;
  std::string text;

  Cell() = default;
  Cell(const char* s) : value(std::string(s)) {}       // NOLINT: a row is written as a plain list
  Cell(std::string s) : value(std::move(s)) {}         // NOLINT
  Cell(std::string_view s) : value(std::string(s)) {}  // NOLINT
  template <typename T>
  requires std::is_arithmetic_v<T> Cell(T number, std::string shown = {}) : text(std::move(shown)) {  // NOLINT
    if constexpr (std::is_same_v<T, bool>) {
      value = number;
    } else if constexpr (std::is_integral_v<T>) {
      value = static_cast<int64_t>(number);
    } else {
      value = static_cast<double>(number);
    }
  }
};

struct Column {
  std::string key = {};      ///< name in CSV and JSON: "forward_ms"
  std::string title = {};    ///< heading for people: "forward"; the key if empty
  bool right_align = false;  ///< numbers
  bool machines_only = false;  ///< in CSV and JSON, but not in what people read
};

/// Looks of a table for people.
struct TableStyle {
  bool color = false;
  bool utf8 = false;
  int max_width = 0;  ///< the widest left-aligned column is shortened to fit; 0 is no limit
};

/// A small table: aligned columns for people; Markdown; CSV as of RFC 4180 with
/// "\n" line ends; JSON as a list of objects whose keys keep the column order;
/// JSON lines. It only builds text, printing is the caller's.
class Table {
 public:
  explicit Table(std::vector<Column> columns);

  /// Throws `Error(kUsage)` if the number of cells is not that of the columns.
  void add_row(std::vector<Cell> cells);
  /// A thin line between groups in text form; nothing in the others.
  void add_rule();

  size_t row_count() const { return rows_.size(); }

  /// The whole table, ending with a line end.
  std::string render(TableFormat format, const TableStyle& style = {}) const;

 private:
  Table for_people() const;
  std::string render_text(const TableStyle& style) const;
  std::string render_markdown() const;
  std::string render_csv() const;
  std::string render_json(bool lines) const;

  std::vector<Column> columns_;
  std::vector<std::vector<Cell>> rows_;
  std::vector<size_t> rules_;  // row numbers before which a rule stands
};

}  // namespace aspis::report
