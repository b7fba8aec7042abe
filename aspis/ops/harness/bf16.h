#pragma once

#include <doctest/doctest.h>
#include <mlx/ops.h>
#include <mlx/primitives.h>
#include <mlx/transforms.h>

#include <algorithm>

#include "aspis/ops/harness/harness.h"
#include "aspis/simd/isa.h"

namespace aspis::harness {

/// Runs every kCheck and kGrad case of an operator with bfloat16 inputs: the
/// results against the double oracle on the same rounded inputs, the gradients
/// against those of the float32 kernel, both as max |error| / max |value|. Fails
/// too if the first output is not written as bfloat16 by the kernel itself, unless
/// `own_outputs` is false: results that are float32, or reshaped behind the kernel.
///
/// The limit (twice for gradients) is one rounding, 2^-9 of the value, with as much again for a
/// rounded intermediate (the sum with a residual).
inline void expect_bf16_conforms(const OpEntry& entry, double limit = 1.0 / 256, bool own_outputs = true,
                                 double gradient_limit = 0) {
  if (gradient_limit == 0) gradient_limit = 2 * limit;
  int checked = 0;
  for (const std::string& isa : supported_isas()) {
    force_isa(isa);
    for (const OpInstance& instance : entry.instances()) {
      const OpCase& c = instance.plain;
      if (!(c.uses & (kCheck | kGrad)) || (c.uses & kFull)) continue;
      Tensors inputs = make_inputs(c, 5, true);
      Arrays half, single;
      std::vector<int> wanted;
      for (size_t i = 0; i < inputs.size(); i++) {
        const TensorSpec& spec = c.inputs[i];
        const auto given = to_array(inputs[i], spec, mx::float32);
        half.push_back(spec.fill.is_integer() ? given : mx::astype(given, mx::bfloat16));
        mx::eval(half.back());
        single.push_back(spec.fill.is_integer() ? half.back() : mx::astype(half.back(), mx::float32));
        inputs[i] = to_tensor(half.back());
        if (spec.differentiable && !spec.fill.is_integer()) wanted.push_back(static_cast<int>(i));
      }
      const Tensors want = c.reference(inputs);
      const auto run = [&](const Arrays& in, const Arrays& cotangents) {
        Arrays primals;
        for (const int i : wanted) primals.push_back(in[i]);
        return mx::vjp(
            [&](const Arrays& moved) {
              Arrays all = in;
              for (size_t k = 0; k < wanted.size(); k++) all[wanted[k]] = moved[k];
              return instance.op(all);
            },
            primals, cotangents);
      };
      const auto plain = instance.op(half);
      Arrays half_weights, single_weights;
      for (const Tensor& w : want) {
        Tensor weights{w.shape, std::vector<double>(w.data.size())};
        for (size_t i = 0; i < w.data.size(); i++) weights.data[i] = 1 + static_cast<double>(i * 7 % 13) / 8;
        half_weights.push_back(mx::astype(to_array(weights, {}, mx::float32), plain[half_weights.size()].dtype()));
        single_weights.push_back(to_array(weights, {}, mx::float32));
      }
      CHECK_MESSAGE((!own_outputs || plain[0].primitive().name() != std::string("AsType")), entry.name, " ",
                    c.name, ": the kernel does not write bfloat16");
      const auto [outputs, gradients] = run(half, half_weights);
      const auto [exact, exact_gradients] = run(single, single_weights);
      for (size_t k = 0; k < want.size(); k++) {
        if (k == 0 && own_outputs) CHECK_MESSAGE(outputs[k].dtype() == mx::bfloat16, entry.name, " ", c.name);
        const double e = normalized_error(to_tensor(outputs[k]), want[k]);
        CHECK_MESSAGE(e <= limit, entry.name, " ", c.name, " on ", isa, ": bfloat16 output ", k, " is off by ", e);
      }
      for (size_t k = 0; entry.has_gradient && k < wanted.size(); k++) {
        const double e = normalized_error(to_tensor(gradients[k]), to_tensor(exact_gradients[k]));
        CHECK_MESSAGE(e <= gradient_limit, entry.name, " ", c.name, " on ", isa, ": bfloat16 gradient of ",
                      c.inputs[wanted[k]].name, " is off by ", e);
      }
      checked++;
    }
  }
  force_isa("");
  CHECK_MESSAGE(checked > 0, entry.name, " has no case to check");
}

}  // namespace aspis::harness
