#pragma once

#include <cstdint>

namespace aspis {

/// Flush-to-zero and denormals-are-zero for the current thread while alive (x86
/// MXCSR, Arm FPCR). Decaying scan states reach denormals, which cost up to 66
/// times a normal operation on x86.
class FlushToZeroGuard {
 public:
  FlushToZeroGuard();
  ~FlushToZeroGuard();
  FlushToZeroGuard(const FlushToZeroGuard&) = delete;
  FlushToZeroGuard& operator=(const FlushToZeroGuard&) = delete;

 private:
  uint64_t saved_;
};

}  // namespace aspis
