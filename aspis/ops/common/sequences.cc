#include "aspis/ops/common/sequences.h"

#include <cstddef>

namespace aspis::kernel {

std::vector<Sequence> row_sequences(int64_t batch, int64_t length) {
  std::vector<Sequence> list;
  for (int64_t b = 0; b < batch; b++) list.push_back({b, 0, length, b, b, false});
  return list;
}

std::vector<Sequence> bounded_sequences(const std::vector<int32_t>& bounds) {
  std::vector<Sequence> list;
  for (std::size_t i = 0; i + 1 < bounds.size(); i++) {
    const auto at = static_cast<int64_t>(i);
    list.push_back({0, bounds[i], bounds[i + 1] - bounds[i], at, at, false});
  }
  return list;
}

std::vector<Sequence> id_sequences(int64_t batch, int64_t length, const int32_t* ids, bool reverse) {
  std::vector<Sequence> list;
  for (int64_t b = 0; b < batch; b++) {
    const auto id = [&](int64_t step) { return ids[b * length + (reverse ? length - 1 - step : step)]; };
    for (int64_t first = 0, end = 0; first < length; first = end) {
      while (end < length && id(end) == id(first)) end++;
      Sequence s{b, reverse ? length - end : first, end - first, -1, -1, id(first) < 0};
      if (first == 0 && id(first) == 0) s.initial = b;
      if (end == length && !s.padding) s.last = b;
      list.push_back(s);
    }
  }
  return list;
}

}  // namespace aspis::kernel
