#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace aspis {

/// What this machine offers to the kernels; for `aspis doctor` and run records.
struct CpuReport {
  std::string model;                  ///< e.g. "AMD EPYC 9654"; "unknown" if not told
  std::string architecture;           ///< "x86-64", "arm64"
  std::vector<std::string> features;  ///< subset of: sse4.2 avx2 fma avx512f avx512_bf16 amx_bf16 neon sve ...
  int cores = 1;                      ///< usable by this process (affinity, cgroup)
  int64_t l1d_bytes = 0, l2_bytes = 0, l3_bytes = 0;  ///< 0 if unknown; L1d and L2 per core
  int64_t memory_bytes = 0;           ///< physical, or the cgroup limit if lower
  int64_t memory_available_bytes = 0;

  bool has(std::string_view feature) const;
};

CpuReport cpu_report();

/// Largest resident size of this process so far, and the present one, in bytes.
int64_t peak_memory_bytes();
int64_t current_memory_bytes();

}  // namespace aspis
