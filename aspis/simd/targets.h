#pragma once

// Which instruction sets the kernels are compiled for. Every kernel's cpu.cc
// includes this before any Highway header, so that all dispatch tables of the
// program agree:
//
//   #include "aspis/simd/targets.h"
//   #undef HWY_TARGET_INCLUDE
//   #define HWY_TARGET_INCLUDE "aspis/ops/<op>/kernel/cpu.cc"
//   #include <hwy/foreach_target.h>
//   #include <hwy/highway.h>
//   #include "aspis/simd/math-inl.h"
//
// x86: AVX-512, AVX2 and SSE4 (the floor; every x86-64-v2 machine). Arm: NEON.
// Three targets keep the builds short. SSE4 is stated as the baseline because
// Highway 1.0.3 would otherwise add a one-lane scalar target; the code is still
// compiled with a target pragma, so no -m flag is needed.

#if defined(HWY_HIGHWAY_INCLUDED) || defined(HIGHWAY_HWY_DETECT_TARGETS_H_)
#error "aspis/simd/targets.h must be included before any Highway header"
#endif

#if defined(__x86_64__) || defined(_M_X64)
#define HWY_BASELINE_TARGETS (HWY_SSE4 | HWY_SCALAR)
#endif
// Bit 29 is the second NEON flavour of newer Highway versions.
#define HWY_DISABLED_TARGETS (~(HWY_AVX3 | HWY_AVX2 | HWY_SSE4 | HWY_NEON | (1LL << 29) | HWY_EMU128 | HWY_SCALAR))

namespace aspis::simd_detail {

/// Applies ASPIS_ISA before the first kernel runs. Never throws: a wrong name
/// is reported by `active_isa()`.
bool apply_isa_env() noexcept;

[[maybe_unused]] inline const bool kIsaEnvApplied = apply_isa_env();

}  // namespace aspis::simd_detail
