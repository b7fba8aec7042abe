#pragma once

#include <cstdint>

namespace aspis::kernel {

/// Channels of one panel. States and checkpoints are kept as panels
/// {N, kScanPanel}: channels of one group, contiguous, padded with zeros at the
/// end of the group. Every vector width divides it, so the layout is the same
/// on every instruction set.
inline constexpr int64_t kScanPanel = 16;

/// Tokens between two checkpoints, and of one time block.
inline constexpr int64_t kScanSegment = 16;

/// Largest state size, in numbers.
inline constexpr int64_t kScanMaxState = 256;

/// B batch, L length, D channels, N state, G groups of B and C (D % G == 0).
struct ScanShape {
  int64_t batch = 0, length = 0, channels = 0, state = 0, groups = 1;
  int64_t unit = 0;  ///< panels of a task, see scan_unit (plan.h); 0: by the channels of a group alone

  int64_t segments() const { return (length + kScanSegment - 1) / kScanSegment; }
  int64_t group_channels() const { return channels / groups; }
  int64_t group_panels() const { return (group_channels() + kScanPanel - 1) / kScanPanel; }
  int64_t panels() const { return groups * group_panels(); }
  /// Elements of one panel.
  int64_t panel_size() const { return state * kScanPanel; }
};

struct ScanPlan;

/// {B, L, D} with contiguous channels: row(b, t) starts at data + b batch + t token.
/// Strides count elements; 0 repeats a row.
template <typename T>
struct ScanRows {
  T* data = nullptr;
  int64_t batch = 0, token = 0;

  explicit operator bool() const { return data != nullptr; }
  T* row(int64_t b, int64_t t) const { return data + b * batch + t * token; }
};

/// B or C: per token {B, L, G, N} with contiguous states, or constant {D, N}, dense.
template <typename T>
struct ScanMatrix {
  T* data = nullptr;
  bool constant = false;
  int64_t batch = 0, token = 0, group = 0;

  T* row(int64_t b, int64_t t, int64_t g) const { return data + b * batch + t * token + g * group; }
};

/// selective_scan: formulas in ../README.md. Pointers that may be null are
/// marked; nothing needs more alignment than its type.
template <typename T>
struct ScanParams {
  ScanShape shape;
  const ScanPlan* plan = nullptr;  ///< how tokens form sequences; null: every row is one
  bool softplus = false;           ///< dt = softplus(delta + bias)
  /// A, B, C and all states are complex: shape.state counts values, the real and the
  /// imaginary part of each number side by side, and y = 2 Re(sum C x). Gradients are those
  /// by the two parts. Not in chained plans.
  bool pairs = false;
  bool reverse = false;            ///< visit the tokens of a sequence from last to first
  const int32_t* order = nullptr;  ///< null or {L}: step t visits token order[t] (order[L - 1 - t] if reverse)

  ScanRows<const T> u, delta, z;       ///< z may be null
  const T* A = nullptr;                ///< {D, N}
  ScanMatrix<const T> B, C;
  const T* D = nullptr;                ///< null or {D}
  const T* delta_bias = nullptr;       ///< null or {D}
  const T* initial_state = nullptr;    ///< null (zero) or {plan.states, D, N}

  ScanRows<T> out;
  T* last_state = nullptr;   ///< null or {plan.states, D, N}
  T* checkpoints = nullptr;  ///< null or plan.checkpoint_size() elements: the states before every segment of a run
};

/// Gradients of all inputs. `in.out` and `in.last_state` are not used;
/// `in.checkpoints` holds what the forward pass wrote or, if `recompute`, is
/// filled first.
template <typename T>
struct ScanVjpParams {
  ScanParams<T> in;
  bool recompute = false;
  ScanRows<const T> dout;
  const T* dlast_state = nullptr;  ///< null (zero) or {plan.states, D, N}

  ScanRows<T> du, ddelta, dz;       ///< dz: null exactly if in.z is
  T* dA = nullptr;                  ///< {D, N}
  T *dB = nullptr, *dC = nullptr;   ///< {B, L, G, N}, or {D, N} if constant
  T* dD = nullptr;                  ///< null exactly if in.D is, else {D}
  T* ddelta_bias = nullptr;         ///< null exactly if in.delta_bias is, else {D}
  T* dinitial_state = nullptr;      ///< null or {plan.states, D, N}
  T* workspace = nullptr;           ///< scan_vjp_workspace() elements
};

/// One token: everything dense, u, delta, z, out {B, D}; B, C {B, G, N} or
/// constant {D, N}; states {B, D, N}. `next_state` may be `state`.
template <typename T>
struct ScanStepParams {
  int64_t batch = 0, channels = 0, state_size = 0, groups = 1;
  bool softplus = false;
  bool pairs = false;  ///< as in ScanParams
  const T* state = nullptr;
  const T *u = nullptr, *delta = nullptr, *z = nullptr;  ///< z may be null
  const T* A = nullptr;
  const T *B = nullptr, *C = nullptr;
  bool constant_B = false, constant_C = false;
  const T *D = nullptr, *delta_bias = nullptr;  ///< may be null
  T *out = nullptr, *next_state = nullptr;
};

/// Panels of one task ("unit"): small enough to feed several cores, large enough to
/// share the rows of B and C. One panel alone shares its cache lines with its
/// neighbours, which costs half as much again.
inline constexpr int64_t kScanMostUnitPanels = 8;
inline int64_t scan_unit_panels(const ScanShape& s) {
  if (s.unit > 0) return s.unit;
  return s.group_panels() >= 64 ? kScanMostUnitPanels : 4;
}
inline int64_t scan_units_per_group(const ScanShape& s) {
  return (s.group_panels() + scan_unit_panels(s) - 1) / scan_unit_panels(s);
}
inline int64_t scan_units(const ScanShape& s) { return s.groups * scan_units_per_group(s); }

/// The three walks over chained runs. First every run starts from zero and leaves
/// its `ends` and the sums of its steps; then `starts` follow along the chain, and
/// the runs are done again from these. Panels {runs, panels, N, 16}; sums of
/// dt kScale {runs, panels, 16}. All null: the only walk there is.
template <typename T>
struct ScanWalk {
  T *ends = nullptr, *step_sums = nullptr;
  const T* starts = nullptr;
};

/// Partial sums of a gradient pass: panels {parts, panels, N, 16} of dA and of a
/// constant B or C, {B, units, L, N} of those per token, {parts, panels, 16} of the others.
template <typename T>
struct ScanVjpSums {
  T *dA = nullptr, *dB = nullptr, *dC = nullptr, *dD = nullptr, *dbias = nullptr;
};

}  // namespace aspis::kernel
