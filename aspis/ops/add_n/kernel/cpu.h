#pragma once

#include "aspis/ops/add_n/kernel/params.h"

namespace aspis::kernel {

/// T is float, double or Bf16. Runs on the team, in blocks of a fixed number of
/// elements; every input is read once.
template <typename T>
void add_n(const AddNParams<T>& p);

}  // namespace aspis::kernel
