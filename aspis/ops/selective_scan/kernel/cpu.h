#pragma once

#include <cstdint>

#include "aspis/ops/selective_scan/kernel/params.h"

namespace aspis::kernel {

/// T is float or double. All of these run on the team; the work is split by
/// shape alone, so results are bit-equal for every number of threads, and a
/// sample's results do not depend on the rest of its batch. Outputs may not
/// overlap inputs. An `order` that is no permutation gives NaN everywhere.
template <typename T>
void scan(const ScanParams<T>& p);

/// Elements of T that scan_vjp needs in `workspace` for a plan of so many parts,
/// checkpoints not counted.
int64_t scan_vjp_workspace(const ScanShape& shape, int64_t parts, bool constant_B, bool constant_C);

template <typename T>
void scan_vjp(const ScanVjpParams<T>& q);

template <typename T>
void scan_step(const ScanStepParams<T>& p);

}  // namespace aspis::kernel
