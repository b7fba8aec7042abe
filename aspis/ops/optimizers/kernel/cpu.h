#pragma once

#include "aspis/ops/optimizers/kernel/params.h"

/// One step of an optimizer over all arrays on the team. In and out are the
/// parameter and the states in the order of the formulas. T is float or double.
/// If `gradient_factor` is NaN, the outputs are the inputs, bit for bit.
namespace aspis::kernel {

/// {p, m}
template <typename T>
void sgd(const UpdateParams<T>& p, const SgdConstants& constants);

/// {p, m}
template <typename T>
void lion(const UpdateParams<T>& p, const LionConstants& constants);

/// {p, m, v}; two passes, as the norms of an array are needed before it changes.
template <typename T>
void lamb(const UpdateParams<T>& p, const LambConstants& constants);

/// {p, m}; every array needs `rows`. Small matrices are a task each, large ones
/// share out the rows of their products.
template <typename T>
void muon(const UpdateParams<T>& p, const MuonConstants& constants);

}  // namespace aspis::kernel
