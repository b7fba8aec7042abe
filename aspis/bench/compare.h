#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "aspis/report/table.h"

namespace aspis::bench {

struct CompareOptions {
  double threshold = 0.10;  ///< a change beyond this share of the old time counts
  /// Compares shares of the bound instead of times, for results of two machines.
  bool by_share = false;
};

struct Comparison {
  report::Table table = report::Table({});
  int slower = 0, faster = 0, same = 0;
  int only_old = 0, only_new = 0;
  std::vector<std::string> notes;  ///< other machine, other bounds
};

/// Two results of `aspis bench --format json`, row by row and pass by pass. Rows
/// belong together if kind, name, case, dtype, instruction set and threads agree.
/// A pass is slower (faster) if new / old is above 1 + threshold (below 1 /
/// (1 + threshold)) and the change is also larger than the wider spread of the
/// two; what only one file has is listed and is no failure. Throws Error(kData),
/// naming the file, for text that is no such result.
Comparison compare_results(std::string_view old_text, const std::string& old_name, std::string_view new_text,
                           const std::string& new_name, const CompareOptions& options = {});

}  // namespace aspis::bench
