#pragma once

#include "aspis/ops/mamba3/kernel/params.h"

/// The forward core with the state in registers, eight rows (tokens times rank) at a
/// time: the recurrence of Mamba-2 (ops/ssd/kernel/recurrence.h) with keys and
/// queries of each head and a weight of its own for what a token gives itself.
namespace aspis::kernel {

/// Whether the rows of a token and those of a chunk fill spans of eight.
bool mamba3_spans_fit(const Mamba3Shape& s);

/// mamba3_core in this form.
template <typename T>
void mamba3_core_spans(const Mamba3CoreParams<T>& p);

}  // namespace aspis::kernel
