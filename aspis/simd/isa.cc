#include "aspis/simd/isa.h"

#include "aspis/base/error.h"
#include "aspis/simd/targets.h"
// The order matters: targets.h restricts what these two declare.
#include <hwy/detect_targets.h>
#include <hwy/targets.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <mutex>

namespace aspis {
namespace {

struct Isa {
  int64_t bit;
  std::string_view name;
  bool units = false;  // for bfloat16, which Highway does not know of here
};

constexpr Isa kIsas[] = {
    {HWY_AVX3, "avx512_bf16", true},
    {HWY_AVX3, "avx512"},
    {HWY_AVX2, "avx2"},
    {HWY_SSE4, "sse4"},
    {HWY_NEON, "neon"},
    {1LL << 29, "neon"},
    {HWY_EMU128, "portable"},
    {HWY_SCALAR, "scalar"},
};

// What this CPU has among the compiled targets, before anything was forced.
int64_t native_targets() {
  static const int64_t targets = hwy::SupportedTargets() & HWY_TARGETS;
  return targets;
}

bool native_units() {
#if defined(__x86_64__) && defined(__GNUC__)
  static const bool has = (native_targets() & HWY_AVX3) != 0 && __builtin_cpu_supports("avx512bf16") != 0;
  return has;
#else
  return false;
#endif
}

// Whether a lower level was not asked for.
std::atomic<bool>& units_allowed() {
  static std::atomic<bool> allowed{true};
  return allowed;
}

int64_t lowest_bit(int64_t mask) { return mask & -mask; }

bool is_native(const Isa& isa) { return (native_targets() & isa.bit) != 0 && (!isa.units || native_units()); }

const Isa* find(std::string_view name) {
  for (const Isa& isa : kIsas) {
    if (isa.name == name && is_native(isa)) return &isa;
  }
  return nullptr;
}

// Null: the best one.
void activate(const Isa* isa) {
  units_allowed() = !isa || isa->units;
  hwy::SetSupportedTargetsForTest(isa ? isa->bit : 0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

std::mutex& mutex() {
  static std::mutex m;
  return m;
}

// The value of ASPIS_ISA if it names nothing usable; empty otherwise.
std::string& bad_env() {
  static std::string name;
  return name;
}

Error unknown_isa(std::string where, std::string_view name) {
  std::string have;
  for (const std::string& isa : supported_isas()) have.append(have.empty() ? "" : ", ").append(isa);
  return Error(ErrorKind::kUsage, {.where = std::move(where),
                                   .required = "the instruction set must be one of " + have,
                                   .got = std::string("'").append(name).append("'"),
                                   .hint = "leave it empty for the best one"});
}

}  // namespace

std::vector<std::string> supported_isas() {
  std::vector<std::string> names;
  for (const Isa& isa : kIsas) {
    if (is_native(isa)) names.emplace_back(isa.name);
  }
  return names;
}

std::string active_isa() {
  simd_detail::apply_isa_env();
  const std::lock_guard lock(mutex());
  if (!bad_env().empty()) throw unknown_isa("ASPIS_ISA", bad_env());
  const int64_t bit = lowest_bit(hwy::SupportedTargets() & HWY_TARGETS);
  for (const Isa& isa : kIsas) {
    if (isa.bit == bit && (!isa.units || (native_units() && units_allowed()))) return std::string(isa.name);
  }
  return "unknown";
}

void force_isa(std::string_view name) {
  simd_detail::apply_isa_env();
  const std::lock_guard lock(mutex());
  const Isa* const isa = name.empty() ? nullptr : find(name);
  if (!name.empty() && !isa) throw unknown_isa("force_isa", name);
  bad_env().clear();
  activate(isa);
}

bool bf16_units() {
  simd_detail::apply_isa_env();
  return native_units() && units_allowed() && lowest_bit(hwy::SupportedTargets() & HWY_TARGETS) == HWY_AVX3;
}

namespace simd_detail {

bool apply_isa_env() noexcept {
  static const bool done = [] {
    native_targets();
    const char* env = std::getenv("ASPIS_ISA");
    if (env == nullptr || *env == '\0') return true;
    const Isa* const isa = find(env);
    if (!isa) {
      bad_env() = env;
    } else {
      activate(isa);
    }
    return true;
  }();
  return done;
}

}  // namespace simd_detail
}  // namespace aspis
