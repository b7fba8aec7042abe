#pragma once

#include "aspis/ops/ssd/kernel/params.h"

namespace aspis::kernel {

/// T is float or double. All of these run on the team; the work is split by
/// shape alone, so results are bit-equal for every number of threads, and those
/// of a sample do not depend on the rest of its batch.
template <typename T>
void ssd(const SsdParams<T>& p);
template <typename T>
void ssd_vjp(const SsdVjpParams<T>& q);
template <typename T>
void ssd_step(const SsdStepParams<T>& p);

/// Values of T that the workspaces must hold.
int64_t ssd_workspace(const SsdShape& s);
int64_t ssd_vjp_workspace(const SsdShape& s);

}  // namespace aspis::kernel
