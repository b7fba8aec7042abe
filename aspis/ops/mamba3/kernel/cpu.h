#pragma once

#include "aspis/ops/mamba3/kernel/params.h"

namespace aspis::kernel {

/// T is float or double. All of these run on the team; results are bit-equal for
/// every number of threads and do not depend on the rest of the batch.
template <typename T>
void mamba3_core(const Mamba3CoreParams<T>& p);
template <typename T>
void mamba3_core_vjp(const Mamba3CoreVjpParams<T>& p);
/// Of any rank; keeps a few tokens of the gradients of keys and queries at a time.
template <typename T>
void mamba3_turned_vjp(const Mamba3TurnedVjpParams<T>& p);
template <typename T>
void mamba3_weights(const Mamba3WeightsParams<T>& p);
template <typename T>
void mamba3_weights_vjp(const Mamba3WeightsVjpParams<T>& p);
template <typename T>
void mamba3_phase(const Mamba3PhaseParams<T>& p);
template <typename T>
void mamba3_phase_vjp(const Mamba3PhaseVjpParams<T>& p);
template <typename T>
void rotary(const RotaryParams<T>& p);
template <typename T>
void rotary_vjp(const RotaryVjpParams<T>& p);
template <typename T>
void mamba3_combine(const CombineParams<T>& p);
template <typename T>
void mamba3_combine_vjp(const CombineVjpParams<T>& p);

/// Allocates nothing once each thread has run one.
template <typename T>
void mamba3_step(const Mamba3StepParams<T>& p);

}  // namespace aspis::kernel
