#include "aspis/cli/output.h"

#include <unistd.h>

namespace aspis::cli {

CLI::Option* add_format(CLI::App* command, std::string& format) {
  return command->add_option("--format", format, "Form of the table: text, md, csv, json or jsonl; default text")
      ->check(CLI::IsMember({"text", "md", "csv", "json", "jsonl"}));
}

void print_table(const Context& context, const report::Table& table, const std::string& format) {
  std::string name = format;
  if (name.empty()) name = context.globals.json ? "json" : "text";
  report::TableStyle style;
  if (context.stdout_is_terminal) {
    const report::Terminal terminal =
        report::open_terminal(STDOUT_FILENO, report::parse_color_mode(context.globals.color));
    style.color = terminal.color;
    style.utf8 = terminal.utf8;
    style.max_width = terminal.width ? terminal.width() : 0;
  }
  print_out(table.render(report::parse_table_format(name), style));
}

void print_note(const Context& context, std::string_view text) {
  if (!context.globals.quiet && !context.globals.json) print_err(text);
}

void progress_line(const Context& context, std::string_view text) {
  if (context.globals.quiet || !isatty(STDERR_FILENO)) return;
  print_err("\r\x1b[K" + std::string(text));
}

report::Terminal stderr_terminal(const Context& context) {
  return report::open_terminal(STDERR_FILENO, report::parse_color_mode(context.globals.color));
}

}  // namespace aspis::cli
