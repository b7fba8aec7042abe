#pragma once

#include "aspis/ops/cross_entropy/kernel/params.h"

namespace aspis::kernel {

/// T is float or double. Runs on the team in blocks of whole rows; the losses of
/// the rows are added in double in the order of the rows.
template <typename T>
void cross_entropy(const CrossEntropyParams<T>& p);
template <typename T>
void cross_entropy_vjp(const CrossEntropyVjpParams<T>& p);

}  // namespace aspis::kernel
