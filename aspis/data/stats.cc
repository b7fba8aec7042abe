#include "aspis/data/stats.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <mutex>
#include <thread>

namespace aspis::data {

void ChannelSums::add(const Image& image) {
  Sums& to = image.channels == 1 ? gray_ : rgb_;
  const size_t channels = static_cast<size_t>(image.channels);
  const size_t count = image.pixels.size() / channels;
  for (size_t c = 0; c < channels; ++c) {
    uint64_t sum = 0, squares = 0;
    for (size_t i = 0; i < count; ++i) {
      const uint32_t v = image.pixels[i * channels + c];
      sum += v;
      squares += v * v;
    }
    to.sum[c] += sum;
    to.squares[c] += squares;
  }
  to.pixels += count;
  ++samples_;
}

void ChannelSums::merge(const ChannelSums& other) {
  const auto merge_sums = [](Sums& a, const Sums& b) {
    a.pixels += b.pixels;
    for (size_t c = 0; c < 3; ++c) {
      a.sum[c] += b.sum[c];
      a.squares[c] += b.squares[c];
    }
  };
  merge_sums(gray_, other.gray_);
  merge_sums(rgb_, other.rgb_);
  samples_ += other.samples_;
}

ChannelStats ChannelSums::finish() const {
  ChannelStats stats;
  stats.samples = samples_;
  const size_t channels = rgb_.pixels > 0 ? 3 : 1;
  const double pixels = static_cast<double>(gray_.pixels + rgb_.pixels);
  for (size_t c = 0; c < channels; ++c) {
    if (pixels == 0) {
      stats.mean.push_back(0);
      stats.std.push_back(1);
      continue;
    }
    const double mean = static_cast<double>(gray_.sum[0] + rgb_.sum[c]) / pixels;
    const double square = static_cast<double>(gray_.squares[0] + rgb_.squares[c]) / pixels;
    const double deviation = std::sqrt(std::max(0.0, square - mean * mean));
    constexpr double kLeastSpread = 1e-3;
    stats.mean.push_back(static_cast<float>(mean / 255));
    stats.std.push_back(deviation < kLeastSpread ? 1.0f : static_cast<float>(deviation / 255));
  }
  return stats;
}

void for_each_index(int64_t n, int threads, const std::function<void(int64_t, int)>& task) {
  std::atomic<int64_t> next{0};
  std::mutex mutex;
  std::exception_ptr failure;
  int64_t failed_at = n;
  const auto work = [&](int worker) {
    for (int64_t i = next++; i < n; i = next++) {
      try {
        task(i, worker);
      } catch (...) {
        next = n;
        const std::lock_guard lock(mutex);
        if (i < failed_at) {
          failed_at = i;
          failure = std::current_exception();
        }
      }
    }
  };
  std::vector<std::thread> helpers;
  const int64_t wanted = std::clamp<int64_t>(threads, 1, std::max<int64_t>(n, 1));
  for (int t = 1; t < wanted; ++t) helpers.emplace_back(work, t);
  work(0);
  for (std::thread& t : helpers) t.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace aspis::data
