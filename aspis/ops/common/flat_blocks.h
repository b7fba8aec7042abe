#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "aspis/base/parallel.h"

namespace aspis::ops {

/// Many tensors seen as one long row that is cut into blocks of fixed size: a
/// large tensor becomes many blocks, hundreds of tiny ones share a block. The
/// cut depends on the sizes only. No MLX.
class FlatBlocks {
 public:
  static constexpr int64_t kBlock = 1 << 15;  ///< elements

  explicit FlatBlocks(const std::vector<int64_t>& sizes) : ends_(sizes) {
    int64_t end = 0;
    for (int64_t& e : ends_) e = end += e;
  }

  int64_t blocks() const { return ends_.empty() ? 0 : div_ceil(ends_.back(), kBlock); }

  /// Calls f(tensor, offset, count) for the parts of tensors in a block, in order.
  template <typename F>
  void for_parts(int64_t block, F&& f) const {
    int64_t at = block * kBlock;
    const int64_t last = std::min(ends_.back(), at + kBlock);
    // The first tensor that ends behind `at`; empty tensors are passed over.
    int64_t i = std::upper_bound(ends_.begin(), ends_.end(), at) - ends_.begin();
    for (; at < last; i++) {
      const int64_t begin = i > 0 ? ends_[i - 1] : 0, end = std::min(last, ends_[i]);
      if (end > at) f(i, at - begin, end - at);
      at = std::max(at, end);
    }
  }

 private:
  std::vector<int64_t> ends_;
};

}  // namespace aspis::ops
