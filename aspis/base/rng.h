#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace aspis {

/// One block of Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy
/// as 1, 2, 3", SC 2011): a pure function of counter and key.
std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

/// A counter-based random stream. Streams with different (seed, name, index)
/// are independent, and a stream's n-th value depends on nothing else, so data
/// order, augmentation and initialisation do not disturb each other and do not
/// depend on the number of threads.
///
///     Rng order(seed, "loader.order", epoch);
///     Rng crop(seed, "augment", epoch, sample_index);
class Rng {
 public:
  Rng(uint64_t seed, std::string_view name, uint64_t index = 0, uint64_t subindex = 0);

  uint32_t next_u32();
  uint64_t next_u64();
  /// Uniform in [0, 1) with 53 random bits.
  double uniform();
  double uniform(double lo, double hi) { return lo + (hi - lo) * uniform(); }
  /// Uniform integer in [0, n) without modulo bias; n >= 1.
  uint64_t below(uint64_t n);
  /// Standard normal (Box-Muller, both values used).
  double normal();
  bool flip() { return next_u32() >> 31; }

  // UniformRandomBitGenerator, for std algorithms that take one.
  using result_type = uint32_t;
  static constexpr uint32_t min() { return 0; }
  static constexpr uint32_t max() { return 0xffffffffu; }
  result_type operator()() { return next_u32(); }

 private:
  std::array<uint32_t, 2> key_;
  std::array<uint32_t, 4> counter_;
  std::array<uint32_t, 4> block_{};
  int used_ = 4;
  double spare_normal_ = 0;
  bool has_spare_ = false;
};

/// 64-bit hash of a string (FNV-1a with a final mix); stable across platforms.
uint64_t hash64(std::string_view text);

}  // namespace aspis
