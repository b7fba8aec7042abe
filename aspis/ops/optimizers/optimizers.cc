#include "aspis/ops/optimizers/optimizers.h"

#include <array>
#include <cmath>
#include <utility>

#include "aspis/ops/adamw/kernel/cpu.h"
#include "aspis/ops/common/primitive.h"
#include "aspis/ops/optimizers/kernel/cpu.h"

namespace aspis {
namespace {

constexpr std::array<std::pair<OptimizerKind, const char*>, 5> kNames = {{{OptimizerKind::kAdamW, "adamw"},
                                                                          {OptimizerKind::kSgd, "sgd"},
                                                                          {OptimizerKind::kLion, "lion"},
                                                                          {OptimizerKind::kLamb, "lamb"},
                                                                          {OptimizerKind::kMuon, "muon"}}};

void check_rule(const char* op, const OptimizerRule& r, const Arrays& params) {
  const auto check = [&](bool ok, const char* required, double got) {
    require(ok, [&] { return Error::Parts{.where = op, .required = required, .got = std::to_string(got)}; });
  };
  check(r.beta1 >= 0 && r.beta1 < 1, "beta1 must be in [0, 1)", r.beta1);
  check(r.beta2 >= 0 && r.beta2 < 1, "beta2 must be in [0, 1)", r.beta2);
  check(r.eps >= 0 && std::isfinite(r.eps), "eps must be a finite number of at least 0", r.eps);
  check(r.kind != OptimizerKind::kLamb || r.eps > 0, "eps must be positive", r.eps);
  check(r.weight_decay >= 0 && std::isfinite(r.weight_decay), "weight_decay must be a finite number of at least 0",
        r.weight_decay);
  if (r.kind != OptimizerKind::kMuon) return;
  check(r.iterations >= 0 && r.iterations < 100, "iterations must be in [0, 100)", r.iterations);
  for (size_t i = 0; i < params.size(); i++) {
    require(params[i].ndim() >= 2, [&] {
      return Error::Parts{.where = op,
                          .required = "params[" + std::to_string(i) + "] must have at least two axes",
                          .got = ops::to_string(params[i].shape()),
                          .hint = "adamw for vectors and numbers"};
    });
  }
}

// Both instances of a kernel with its constants.
template <typename Constants>
ops::UpdateKernel kernel_of(void (*f32)(const kernel::UpdateParams<float>&, const Constants&),
                            void (*f64)(const kernel::UpdateParams<double>&, const Constants&),
                            const Constants& c) {
  return {[=](const kernel::UpdateParams<float>& p) { f32(p, c); },
          [=](const kernel::UpdateParams<double>& p) { f64(p, c); }};
}

ops::UpdateKernel kernel_of(const OptimizerRule& r) {
  switch (r.kind) {
    case OptimizerKind::kSgd:
      return kernel_of<kernel::SgdConstants>(kernel::sgd<float>, kernel::sgd<double>,
                                             {r.beta1, r.nesterov, r.weight_decay});
    case OptimizerKind::kLion:
      return kernel_of<kernel::LionConstants>(kernel::lion<float>, kernel::lion<double>,
                                              {r.beta1, r.beta2, r.weight_decay});
    case OptimizerKind::kLamb:
      return kernel_of<kernel::LambConstants>(kernel::lamb<float>, kernel::lamb<double>,
                                              {r.beta1, r.beta2, r.eps, r.weight_decay});
    case OptimizerKind::kMuon: {
      kernel::MuonConstants c;
      c.momentum = r.beta1;
      c.nesterov = r.nesterov;
      c.weight_decay = r.weight_decay;
      c.eps = r.eps;
      c.steps = r.iterations;
      c.original = r.original_factor;
      return kernel_of<kernel::MuonConstants>(kernel::muon<float>, kernel::muon<double>, c);
    }
    case OptimizerKind::kAdamW:
      break;
  }
  return kernel_of<kernel::AdamWConstants>(kernel::adamw<float>, kernel::adamw<double>,
                                           {r.beta1, r.beta2, r.eps, r.weight_decay});
}

}  // namespace

const char* to_string(OptimizerKind kind) {
  for (const auto& [k, name] : kNames) {
    if (k == kind) return name;
  }
  return "";
}

OptimizerKind optimizer_kind(std::string_view name) {
  for (const auto& [k, known] : kNames) {
    if (name == known) return k;
  }
  throw Error(ErrorKind::kUsage, {.where = "optimizer",
                                  .required = "one of adamw, sgd, lion, lamb, muon is needed",
                                  .got = "'" + std::string(name) + "'"});
}

int state_count(OptimizerKind kind) {
  return kind == OptimizerKind::kAdamW || kind == OptimizerKind::kLamb ? 2 : 1;
}

OptimizerResult optimizer_step(const OptimizerRule& rule, Arrays params, Arrays gradients,
                               std::vector<Arrays> states, const std::vector<bool>& decay, StepControl control,
                               mx::StreamOrDevice s) {
  const auto stream = mx::to_stream(s);
  const char* op = to_string(rule.kind);
  const auto count = static_cast<size_t>(state_count(rule.kind));
  require(states.size() == count, [&] {
    return Error::Parts{.where = op,
                        .required = std::to_string(count) + " lists of states are needed",
                        .got = std::to_string(states.size())};
  });
  check_rule(op, rule, params);
  std::vector<Arrays> updated;
  updated.push_back(std::move(params));
  for (Arrays& list : states) updated.push_back(std::move(list));
  std::vector<const char*> names{"params", "m"};
  if (count == 2) names.push_back("v");
  ops::check_step(op, names, updated, gradients, decay, control);
  if (ops::choose_back_end(op, stream) == ops::BackEnd::kComposed) {
    const std::vector<Arrays> lists(updated.begin() + 1, updated.end());
    return optimizer_step_composed(rule, updated[0], gradients, lists, decay, control, stream);
  }
  auto r = ops::update_step(op, std::move(updated), std::move(gradients), decay, std::move(control),
                            kernel_of(rule), stream);
  OptimizerResult result{std::move(r.updated[0]), {}, std::move(r.averages), std::move(r.half), r.applied};
  for (size_t k = 1; k < r.updated.size(); k++) result.states.push_back(std::move(r.updated[k]));
  return result;
}

}  // namespace aspis
