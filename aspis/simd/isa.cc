#include "aspis/simd/isa.h"

#include "aspis/base/error.h"
#include "aspis/simd/targets.h"
// The order matters: targets.h restricts what these two declare.
#include <hwy/detect_targets.h>
#include <hwy/targets.h>

#include <cstdint>
#include <cstdlib>
#include <mutex>

namespace aspis {
namespace {

struct Isa {
  int64_t bit;
  std::string_view name;
};

constexpr Isa kIsas[] = {
    {HWY_AVX3, "avx512"}, {HWY_AVX2, "avx2"},       {HWY_SSE4, "sse4"},     {HWY_NEON, "neon"},
    {1LL << 29, "neon"},  {HWY_EMU128, "portable"}, {HWY_SCALAR, "scalar"},
};

std::string_view name_of(int64_t bit) {
  for (const Isa& isa : kIsas) {
    if (isa.bit == bit) return isa.name;
  }
  return "unknown";
}

// What this CPU has among the compiled targets, before anything was forced.
int64_t native_targets() {
  static const int64_t targets = hwy::SupportedTargets() & HWY_TARGETS;
  return targets;
}

int64_t lowest_bit(int64_t mask) { return mask & -mask; }

int64_t find(std::string_view name) {
  for (const Isa& isa : kIsas) {
    if (isa.name == name && (native_targets() & isa.bit) != 0) return isa.bit;
  }
  return 0;
}

void set_targets(int64_t mask) {
  hwy::SetSupportedTargetsForTest(mask);
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
    if ((native_targets() & isa.bit) != 0) names.emplace_back(isa.name);
  }
  return names;
}

std::string active_isa() {
  simd_detail::apply_isa_env();
  const std::lock_guard lock(mutex());
  if (!bad_env().empty()) throw unknown_isa("ASPIS_ISA", bad_env());
  return std::string(name_of(lowest_bit(hwy::SupportedTargets() & HWY_TARGETS)));
}

void force_isa(std::string_view name) {
  simd_detail::apply_isa_env();
  const std::lock_guard lock(mutex());
  const int64_t bit = name.empty() ? 0 : find(name);
  if (!name.empty() && bit == 0) throw unknown_isa("force_isa", name);
  bad_env().clear();
  set_targets(bit);
}

namespace simd_detail {

bool apply_isa_env() noexcept {
  static const bool done = [] {
    native_targets();
    const char* env = std::getenv("ASPIS_ISA");
    if (env == nullptr || *env == '\0') return true;
    const int64_t bit = find(env);
    if (bit == 0) {
      bad_env() = env;
    } else {
      set_targets(bit);
    }
    return true;
  }();
  return done;
}

}  // namespace simd_detail
}  // namespace aspis
