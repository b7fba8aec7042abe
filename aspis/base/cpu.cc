#include "aspis/base/cpu.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <sstream>

#if defined(__APPLE__)
#include <sys/sysctl.h>
#endif

#include "aspis/base/parallel.h"

namespace aspis {
namespace {

#if defined(__linux__)

// A number in a file that holds one ("max" and absence give 0).
int64_t number_in(const char* path) {
  int64_t value = 0;
  std::ifstream(path) >> value;
  return std::max<int64_t>(value, 0);
}

std::string field_of_cpuinfo(const char* name) {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    if (line.rfind(name, 0) != 0) continue;
    const size_t colon = line.find(':');
    if (colon != std::string::npos && colon + 2 <= line.size()) return line.substr(colon + 2);
  }
  return {};
}

int64_t kilobytes_of_meminfo(const std::string& name) {
  std::ifstream in("/proc/meminfo");
  for (std::string line; std::getline(in, line);) {
    if (line.rfind(name + ":", 0) == 0) return std::atoll(line.c_str() + name.size() + 1);
  }
  return 0;
}

#endif

}  // namespace

bool CpuReport::has(std::string_view feature) const {
  return std::find(features.begin(), features.end(), feature) != features.end();
}

CpuReport cpu_report() {
  CpuReport r;
  r.model = "unknown";
  r.cores = available_cores();
#if defined(__x86_64__)
  r.architecture = "x86-64";
#elif defined(__aarch64__)
  r.architecture = "arm64";
#else
  r.architecture = "other";
#endif
#if defined(__linux__)
  if (auto model = field_of_cpuinfo("model name"); !model.empty()) r.model = model;
  std::istringstream flags(field_of_cpuinfo(r.architecture == "arm64" ? "Features" : "flags"));
  static const std::vector<std::pair<std::string, std::string>> kShown = {
      {"sse4_2", "sse4.2"},   {"avx2", "avx2"},           {"fma", "fma"},         {"f16c", "f16c"},
      {"avx512f", "avx512f"}, {"avx512vl", "avx512vl"},   {"avx512_vnni", "avx512_vnni"},
      {"avx512_bf16", "avx512_bf16"}, {"avx512_fp16", "avx512_fp16"}, {"amx_tile", "amx_tile"},
      {"amx_bf16", "amx_bf16"}, {"amx_int8", "amx_int8"}, {"asimd", "neon"},      {"sve", "sve"},
      {"bf16", "bf16"}};
  std::vector<std::string> present;
  for (std::string flag; flags >> flag;) present.push_back(flag);
  for (const auto& [flag, shown] : kShown) {
    if (std::find(present.begin(), present.end(), flag) != present.end()) r.features.push_back(shown);
  }
#if defined(_SC_LEVEL1_DCACHE_SIZE)
  r.l1d_bytes = std::max(0L, sysconf(_SC_LEVEL1_DCACHE_SIZE));
  r.l2_bytes = std::max(0L, sysconf(_SC_LEVEL2_CACHE_SIZE));
  r.l3_bytes = std::max(0L, sysconf(_SC_LEVEL3_CACHE_SIZE));
#endif
  r.memory_bytes = kilobytes_of_meminfo("MemTotal") * 1024;
  r.memory_available_bytes = kilobytes_of_meminfo("MemAvailable") * 1024;
  const int64_t limit = number_in("/sys/fs/cgroup/memory.max");
  if (limit > 0 && limit < r.memory_bytes) {
    r.memory_bytes = limit;
    const int64_t used = number_in("/sys/fs/cgroup/memory.current");
    r.memory_available_bytes = std::min(r.memory_available_bytes, std::max<int64_t>(0, limit - used));
  }
#elif defined(__APPLE__)
  auto number = [](const char* name) {
    int64_t v = 0;
    size_t n = sizeof v;
    return sysctlbyname(name, &v, &n, nullptr, 0) == 0 ? v : 0;
  };
  char text[256];
  size_t n = sizeof text;
  if (sysctlbyname("machdep.cpu.brand_string", text, &n, nullptr, 0) == 0) r.model = text;
#if defined(__aarch64__)
  r.features = {"neon"};
#endif
  r.l1d_bytes = number("hw.l1dcachesize");
  r.l2_bytes = number("hw.l2cachesize");
  r.l3_bytes = number("hw.l3cachesize");
  r.memory_bytes = number("hw.memsize");
  r.memory_available_bytes = r.memory_bytes;
#endif
  return r;
}

int64_t peak_memory_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
#if defined(__APPLE__)
  return usage.ru_maxrss;
#else
  return usage.ru_maxrss * int64_t{1024};
#endif
}

int64_t current_memory_bytes() {
#if defined(__linux__)
  int64_t size = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> size >> resident;
  return resident * sysconf(_SC_PAGESIZE);
#else
  return peak_memory_bytes();
#endif
}

}  // namespace aspis
