#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace aspis::kernel {

/// A run of elements of one array of a list.
struct Segment {
  int64_t array = 0, first = 0, count = 0;
};

/// A list of arrays cut into tasks for parallel_for: task t covers the segments
/// [starts[t], starts[t + 1]). Every task holds about `block` elements, so that
/// large arrays are shared out and hundreds of tiny ones do not cost a task
/// each. The cut depends on the sizes alone; a segment never exceeds `block`
/// and begins at a multiple of it.
struct SegmentList {
  std::vector<Segment> segments;
  std::vector<int64_t> starts{0};

  int64_t tasks() const { return static_cast<int64_t>(starts.size()) - 1; }
};

/// `size(i)` is the number of elements of array i.
template <typename Size>
SegmentList cut_arrays(int64_t arrays, int64_t block, Size size) {
  SegmentList list;
  int64_t filled = 0;
  for (int64_t i = 0; i < arrays; i++) {
    const int64_t n = size(i);
    for (int64_t first = 0; first < n; first += block) {
      const int64_t count = std::min(block, n - first);
      if (filled > 0 && filled + count > block) {
        list.starts.push_back(static_cast<int64_t>(list.segments.size()));
        filled = 0;
      }
      list.segments.push_back({i, first, count});
      filled += count;
    }
  }
  if (filled > 0) list.starts.push_back(static_cast<int64_t>(list.segments.size()));
  return list;
}

}  // namespace aspis::kernel
