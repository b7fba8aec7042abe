#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace aspis {

/// Instruction sets that the kernels were compiled for and this CPU has, best
/// first: a subset of "avx512_bf16", "avx512", "avx2", "sse4" on x86-64, "neon" on
/// Arm. "avx512_bf16" is "avx512" with the dot products of bfloat16 pairs.
std::vector<std::string> supported_isas();

/// True if products of bfloat16 may use the units for them (`avx512_bf16` is
/// active); they are computed in float32 otherwise.
bool bf16_units();

/// The instruction set that kernels use now: what `force_isa` set, else the
/// environment variable ASPIS_ISA, else the best one. Throws a usage error when
/// ASPIS_ISA names nothing that exists here; programs call this once at start.
std::string active_isa();

/// Makes every kernel use the named instruction set from now on; "" goes back
/// to the best. For tests and comparisons; not while kernels run. Throws a
/// usage error that names what exists.
void force_isa(std::string_view name);

}  // namespace aspis
