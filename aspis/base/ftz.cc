#include "aspis/base/ftz.h"

#if defined(__SSE2__) || defined(_M_X64)
#include <immintrin.h>
#endif

namespace aspis {

#if defined(__SSE2__) || defined(_M_X64)
namespace {
constexpr unsigned kFlushToZero = 1u << 15;
constexpr unsigned kDenormalsAreZero = 1u << 6;
}  // namespace
FlushToZeroGuard::FlushToZeroGuard() : saved_(_mm_getcsr()) {
  _mm_setcsr(static_cast<unsigned>(saved_) | kFlushToZero | kDenormalsAreZero);
}
FlushToZeroGuard::~FlushToZeroGuard() { _mm_setcsr(static_cast<unsigned>(saved_)); }
#elif defined(__aarch64__)
namespace {
constexpr uint64_t kFlushToZero = uint64_t{1} << 24;  // FZ: flushes inputs and results
}
FlushToZeroGuard::FlushToZeroGuard() {
  asm volatile("mrs %0, fpcr" : "=r"(saved_));
  asm volatile("msr fpcr, %0" ::"r"(saved_ | kFlushToZero));
}
FlushToZeroGuard::~FlushToZeroGuard() { asm volatile("msr fpcr, %0" ::"r"(saved_)); }
#else
FlushToZeroGuard::FlushToZeroGuard() : saved_(0) {}
FlushToZeroGuard::~FlushToZeroGuard() = default;
#endif

}  // namespace aspis
