#pragma once

#include <array>
#include <cstdint>
#include <functional>

#include "aspis/data/dataset.h"

namespace aspis::data {

/// Sums over pictures, kept in integers so that the order of adding and the
/// number of threads leave no trace in the result.
class ChannelSums {
 public:
  void add(const Image& image);
  void merge(const ChannelSums& other);
  /// Mean and standard deviation of samples scaled to [0, 1]; three channels if
  /// any picture was RGB (gray pictures then count in each), else one. A channel
  /// without spread gets a standard deviation of 1, so that dividing is safe.
  ChannelStats finish() const;

 private:
  struct Sums {
    uint64_t pixels = 0;
    std::array<uint64_t, 3> sum{}, squares{};
  };
  Sums gray_, rgb_;
  int64_t samples_ = 0;
};

/// Calls task(i, worker) for 0 <= i < n on `threads` plain threads (not the
/// OpenMP team, which belongs to the computation) and waits. An exception of a
/// task ends the work and is thrown again here.
void for_each_index(int64_t n, int threads, const std::function<void(int64_t i, int worker)>& task);

}  // namespace aspis::data
