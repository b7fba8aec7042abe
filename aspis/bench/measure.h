#pragma once

#include <mlx/array.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "aspis/models/registry.h"
#include "aspis/nn/module.h"
#include "aspis/ops/harness/bounds.h"
#include "aspis/ops/harness/harness.h"

namespace aspis::bench {

/// A layer or model with an input, ready to be timed.
struct Subject {
  std::string kind;  ///< "block", "model"
  std::string name;
  std::string case_name;  ///< "8x196x192"
  std::unique_ptr<Module> module;
  mx::array input = mx::array(0.0f);
  std::function<mx::array(const mx::array&)> forward;  ///< of `module`
  int64_t classes = 0;  ///< > 0: the step's loss is the cross-entropy of labels, else the mean
};

/// The timed blocks: name and what it is.
struct BlockEntry {
  std::string name, summary;
  std::function<Subject()> make;
};
const std::vector<BlockEntry>& block_registry();

/// A model of the registry, its config changed, with `batch` random images.
Subject model_subject(const std::string& name, int64_t batch, const Overrides& overrides = {});

/// Times of one pass with what the machine needs at least; a median of 0 means
/// that the pass was not asked for or does not exist.
struct Pass {
  harness::Timing time;
  double bound = 0;   ///< seconds
  std::string limit;  ///< "exp", "fma" or "bandwidth"
};

/// One row of `aspis bench`.
struct Measurement {
  std::string kind, name, case_name, isa, dtype;
  int threads = 1;
  Pass forward, both, step;
};

/// Which passes of blocks and models are timed. "forward" is inference; "both"
/// forward and the gradients of all parameters; "step" also the AdamW update.
struct Passes {
  bool forward = true, both = true, step = true;
};

/// Times a subject for about `seconds`. The bound counts the work of the graph,
/// for "both" three times its multiply-adds and twice its exponentials, and the
/// parameters' traffic; activations may stay in the caches and are not counted.
Measurement measure_subject(Subject& subject, const Passes& passes, double seconds, mx::Dtype dtype = mx::float32);

/// An operator's case as a row.
Measurement measure_operator(const harness::OpEntry& entry, const harness::OpInstance& instance, double seconds,
                             bool composed, mx::Dtype dtype);

/// "float32", "bfloat16", "float16". Throws Error(kUsage) for others.
mx::Dtype parse_dtype(const std::string& name);

}  // namespace aspis::bench
