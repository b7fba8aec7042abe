#pragma once

#include <mlx/array.h>

#include <algorithm>
#include <functional>
#include <string>
#include <vector>

#include "aspis/ops/harness/op_case.h"

/// Runs the cases of an operator for four readers: the tests, `aspis ops
/// --check`, `aspis bench` and the support table.
namespace aspis::harness {

namespace mx = mlx::core;
using Arrays = std::vector<mx::array>;
using ArrayFn = std::function<Arrays(const Arrays&)>;

/// A case with the functions under test. `op` is the public function; the
/// arrays come in the order of `plain.inputs`.
struct OpInstance {
  OpCase plain;
  ArrayFn op;
  ArrayFn composed;  ///< may be empty if there is no composed version
};

struct OpEntry {
  std::string name;
  std::string summary;                 ///< one line for `aspis ops`
  std::vector<std::string> back_ends;  ///< e.g. {"cpu", "composed"}
  bool has_gradient = true;
  bool has_step = false;
  std::function<std::vector<OpInstance>()> instances;
  bool half = true;  ///< takes bfloat16 and float16, arithmetic being in float32
};

struct CheckOptions {
  uint64_t seed = 1;
  bool finite_differences = true;  ///< on cases with kGrad
  bool threads = true;             ///< bit-equality for 1, 2, 3 and 7 threads
  bool layouts = true;             ///< slices, transposed and broadcast inputs and cotangents
  bool half = false;               ///< bfloat16 and float16 against the oracle on the rounded inputs
};

/// Errors as max |error| / max |reference|; negative where nothing was compared.
struct Errors {
  double forward = -1, gradient = -1;

  void raise(const Errors& other) {
    forward = std::max(forward, other.forward);
    gradient = std::max(gradient, other.gradient);
  }
};

struct CheckResult {
  std::string op, case_name, isa;
  Errors single;  ///< float32 kernel: against the oracle, gradients against the float64 ones
  Errors
      wide;  ///< float64 kernel: against the oracle, gradients against the composed version or finite differences
  Errors composed;  ///< composed version in float64: against the oracle, gradients against finite differences
  Errors bfloat16, float16;  ///< of the rounded inputs: against the oracle, gradients against the float64 ones
  bool passed = true;
  std::string message;  ///< what failed first
};

/// All checks of one case on the present instruction set.
CheckResult check_case(const OpEntry& entry, const OpInstance& instance, const CheckOptions& options = {});

struct Timing {
  double median = 0, best = 0, spread = 0;  ///< seconds; spread = (p90 - p10) / median
  int runs = 0;
};

/// Median, best and spread of repeated calls for about `seconds`, after one call as a warm-up.
Timing time_repeatedly(const std::function<void()>& run, double seconds);

struct PerfResult {
  std::string op, case_name;
  Timing forward, forward_backward;
  double forward_bound = 0, forward_backward_bound = 0;  ///< seconds the machine needs at least
  std::string forward_limit, forward_backward_limit;     ///< "exp", "fma" or "bandwidth"
};

/// Times one case for at most about `seconds`. `composed` times the composed
/// version instead of the kernel. `dtype` is that of all floating-point inputs;
/// the bound then counts bytes of that size, and the float32 peak of arithmetic.
PerfResult measure_case(const OpEntry& entry, const OpInstance& instance, double seconds = 1.0,
                        bool composed = false, mx::Dtype dtype = mx::float32);

mx::array to_array(const Tensor& t, const TensorSpec& spec, mx::Dtype dtype);
Tensor to_tensor(const mx::array& a);

}  // namespace aspis::harness
