#include "aspis/ops/concat/kernel/cpu.h"

#include <doctest/doctest.h>

#include <cstddef>
#include <vector>

#include "aspis/base/parallel.h"

using namespace aspis;

TEST_CASE("concat puts rows of any length together, empty ones included, for any number of threads") {
  for (const auto& sizes : std::vector<std::vector<int64_t>>{{3}, {1, 0, 5}, {64, 64}, {70001, 3, 200000}, {0}}) {
    for (const int64_t rows : {0, 1, 3, 1000}) {
      if (sizes[0] > 1000 && rows > 3) continue;
      std::vector<std::vector<uint8_t>> parts;
      std::vector<uint8_t> want;
      int64_t row_bytes = 0;
      for (const int64_t n : sizes) {
        parts.emplace_back(static_cast<size_t>(rows * n));
        for (size_t i = 0; i < parts.back().size(); i++) {
          parts.back()[i] = static_cast<uint8_t>(i * 31 + parts.size() * 7 + i / 251);
        }
        row_bytes += n;
      }
      for (int64_t r = 0; r < rows; r++) {
        for (size_t k = 0; k < sizes.size(); k++) {
          want.insert(want.end(), parts[k].begin() + r * sizes[k], parts[k].begin() + (r + 1) * sizes[k]);
        }
      }
      want.push_back(77);
      for (const int threads : {1, 2, 7}) {
        set_num_threads(threads);
        std::vector<uint8_t> y(static_cast<size_t>(rows * row_bytes) + 1, 77);
        kernel::ConcatParams p{rows, {}, y.data()};
        for (size_t k = 0; k < sizes.size(); k++) p.parts.push_back({parts[k].data(), sizes[k]});
        kernel::concat(p);
        CHECK(y == want);
      }
    }
  }
  set_num_threads(0);
}
