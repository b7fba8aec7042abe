#pragma once

#include <string>
#include <string_view>

#include "aspis/cli/cli.h"
#include "aspis/report/console.h"
#include "aspis/report/table.h"

namespace aspis::cli {

/// Adds --format text|md|csv|json|jsonl.
CLI::Option* add_format(CLI::App* command, std::string& format);

/// Prints a table to stdout in the wanted format; --json means json.
void print_table(const Context& context, const report::Table& table, const std::string& format);

/// A line for people on stderr; nothing with -q or --json.
void print_note(const Context& context, std::string_view text);

/// A line on stderr that the next one replaces, on a terminal only; "" clears it.
void progress_line(const Context& context, std::string_view text);

/// Stderr as the progress display sees it.
report::Terminal stderr_terminal(const Context& context);

}  // namespace aspis::cli
