#include "aspis/ops/adamw/adamw.h"

#include <cmath>

#include "aspis/ops/adamw/kernel/cpu.h"
#include "aspis/ops/common/primitive.h"

namespace aspis {
namespace {

void check_options(const AdamWOptions& o) {
  const auto check = [](bool ok, const char* required, double got) {
    require(ok, [&] { return Error::Parts{.where = "adamw", .required = required, .got = std::to_string(got)}; });
  };
  check(o.beta1 >= 0 && o.beta1 < 1, "beta1 must be in [0, 1)", o.beta1);
  check(o.beta2 >= 0 && o.beta2 < 1, "beta2 must be in [0, 1)", o.beta2);
  check(o.eps >= 0 && std::isfinite(o.eps), "eps must be a finite number of at least 0", o.eps);
  check(o.weight_decay >= 0 && std::isfinite(o.weight_decay), "weight_decay must be a finite number of at least 0",
        o.weight_decay);
}

}  // namespace

AdamWResult adamw(std::vector<mx::array> params, std::vector<mx::array> gradients, std::vector<mx::array> m,
                  std::vector<mx::array> v, const std::vector<bool>& decay, const AdamWOptions& options,
                  const StepControl& control, mx::StreamOrDevice s) {
  const auto stream = mx::to_stream(s);
  check_options(options);
  std::vector<Arrays> updated;
  updated.push_back(std::move(params));
  updated.push_back(std::move(m));
  updated.push_back(std::move(v));
  ops::check_step("adamw", {"params", "m", "v"}, updated, gradients, decay, control);
  if (ops::choose_back_end("adamw", stream) == ops::BackEnd::kComposed) {
    return adamw_composed(updated[0], gradients, updated[1], updated[2], decay, options, control, stream);
  }
  const kernel::AdamWConstants c{options.beta1, options.beta2, options.eps, options.weight_decay};
  const ops::UpdateKernel run{[c](const kernel::UpdateParams<float>& p) { kernel::adamw(p, c); },
                              [c](const kernel::UpdateParams<double>& p) { kernel::adamw(p, c); }};
  auto result = ops::update_step("adamw", std::move(updated), std::move(gradients), decay, control, run, stream);
  return {std::move(result.updated[0]), std::move(result.updated[1]), std::move(result.updated[2]),
          result.applied};
}

}  // namespace aspis
