#pragma once

#include <string>

#include "aspis/ops/harness/op_case.h"

namespace aspis::harness {

/// What the machine can do at most with the present team and instruction set,
/// measured on the spot.
struct MachineBounds {
  double fma_flops = 0;        ///< float32 flops per second, all threads
  double exps = 0;             ///< float32 vector exponentials per second, all threads
  double bytes = 0;            ///< bytes per second of a triad over 64 MB arrays
  std::string isa;
  int threads = 1;
};

/// Measures once per (instruction set, thread count) and keeps the result; about 0.3 s.
const MachineBounds& machine_bounds();

/// The least time for `cost`: the slowest of its three parts, taken as if they
/// overlapped perfectly. `limit` receives the name of that part.
double bound_seconds(const Cost& cost, const MachineBounds& bounds, std::string* limit = nullptr);

}  // namespace aspis::harness
