#include "aspis/ops/selective_scan/scan_modes.h"

#include <algorithm>
#include <iterator>

#include "aspis/base/error.h"
#include "aspis/ops/selective_scan/selective_scan.h"

namespace aspis {
namespace {

struct Mode {
  const char* name;
  ScanFunction function;
};

constexpr Mode kModes[] = {{"sequential", selective_scan},
                           {"chunked", selective_scan_chunked},
                           {"parallel", selective_scan_parallel},
                           {"batched", selective_scan_batched},
                           {"metal", selective_scan_metal},
                           {"metal_train", selective_scan_metal_trainable},
                           {"metal_fused", selective_scan_metal_fused},
                           {"metal_chunked", selective_scan_metal_chunked}};

}  // namespace

mx::array selective_scan(const mx::array& u, const mx::array& delta, const mx::array& A, const mx::array& B,
                         const mx::array& C, const mx::array& D, mx::StreamOrDevice s) {
  ScanOptions options;
  options.D = D;
  return selective_scan(u, delta, A, B, C, options, s);
}

mx::array selective_scan_chunked(const mx::array& u, const mx::array& delta, const mx::array& A,
                                 const mx::array& B, const mx::array& C, const mx::array& D,
                                 mx::StreamOrDevice s) {
  return selective_scan(u, delta, A, B, C, D, s);
}
mx::array selective_scan_parallel(const mx::array& u, const mx::array& delta, const mx::array& A,
                                  const mx::array& B, const mx::array& C, const mx::array& D,
                                  mx::StreamOrDevice s) {
  return selective_scan(u, delta, A, B, C, D, s);
}
mx::array selective_scan_batched(const mx::array& u, const mx::array& delta, const mx::array& A,
                                 const mx::array& B, const mx::array& C, const mx::array& D,
                                 mx::StreamOrDevice s) {
  return selective_scan(u, delta, A, B, C, D, s);
}
mx::array selective_scan_metal(const mx::array& u, const mx::array& delta, const mx::array& A, const mx::array& B,
                               const mx::array& C, const mx::array& D, mx::StreamOrDevice s) {
  return selective_scan(u, delta, A, B, C, D, s);
}
mx::array selective_scan_metal_trainable(const mx::array& u, const mx::array& delta, const mx::array& A,
                                         const mx::array& B, const mx::array& C, const mx::array& D,
                                         mx::StreamOrDevice s) {
  return selective_scan(u, delta, A, B, C, D, s);
}
mx::array selective_scan_metal_fused(const mx::array& u, const mx::array& delta, const mx::array& A,
                                     const mx::array& B, const mx::array& C, const mx::array& D,
                                     mx::StreamOrDevice s) {
  return selective_scan(u, delta, A, B, C, D, s);
}
mx::array selective_scan_metal_chunked(const mx::array& u, const mx::array& delta, const mx::array& A,
                                       const mx::array& B, const mx::array& C, const mx::array& D,
                                       mx::StreamOrDevice s) {
  return selective_scan(u, delta, A, B, C, D, s);
}

const std::vector<std::string>& scan_mode_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> list;
    for (const Mode& m : kModes) list.emplace_back(m.name);
    return list;
  }();
  return names;
}

ScanFunction scan_function(std::string_view mode) {
  check_scan_mode(mode);
  return std::find_if(std::begin(kModes), std::end(kModes), [&](const Mode& m) { return mode == m.name; })
      ->function;
}

void check_scan_mode(std::string_view mode, const std::string& where) {
  const auto& names = scan_mode_names();
  if (std::find(names.begin(), names.end(), mode) != names.end()) return;
  std::string known;
  for (const auto& name : names) known += (known.empty() ? "" : ", ") + name;
  throw Error(ErrorKind::kUsage, {.where = where,
                                  .required = "scan_mode must be one of " + known,
                                  .got = '"' + std::string(mode) + '"',
                                  .hint = nearest_word(mode, names)});
}

}  // namespace aspis
