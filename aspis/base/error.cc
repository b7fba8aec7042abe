#include "aspis/base/error.h"

#include <algorithm>
#include <vector>

namespace aspis {

std::string_view to_string(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kRuntime: return "runtime";
    case ErrorKind::kUsage: return "usage";
    case ErrorKind::kData: return "data";
    case ErrorKind::kModel: return "model";
    case ErrorKind::kDevice: return "device";
    case ErrorKind::kBusy: return "busy";
    case ErrorKind::kWrite: return "write";
  }
  return "unknown";
}

Error::Error(ErrorKind kind, Parts parts) : kind_(kind), parts_(std::move(parts)) {
  if (!parts_.where.empty()) message_ += "[" + parts_.where + "] ";
  message_ += parts_.required;
  if (!parts_.got.empty()) message_ += "; got " + parts_.got;
  if (!parts_.hint.empty()) message_ += ". Try: " + parts_.hint;
}

int edit_distance(std::string_view a, std::string_view b) {
  // Three rows of the optimal string alignment table.
  std::vector<int> before(b.size() + 1), last(b.size() + 1), row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); j++) last[j] = static_cast<int>(j);
  for (size_t i = 1; i <= a.size(); i++) {
    row[0] = static_cast<int>(i);
    for (size_t j = 1; j <= b.size(); j++) {
      const int cost = a[i - 1] != b[j - 1];
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + cost});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        row[j] = std::min(row[j], before[j - 2] + 1);
      }
    }
    before.swap(last);
    last.swap(row);
  }
  return last[b.size()];
}

}  // namespace aspis
