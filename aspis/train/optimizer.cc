#include "aspis/train/optimizer.h"

#include <fmt/format.h>
#include <mlx/ops.h>

#include <map>

#include "aspis/base/error.h"
#include "aspis/ops/adamw/adamw.h"
#include "aspis/ops/common/primitive.h"
#include "aspis/ops/grad_norm/grad_norm.h"

namespace aspis::train {

Optimizer::Optimizer(Module& module, const AdamWSettings& settings) : module_(module), settings_(settings) {
  for (const ParameterRef& p : module.parameter_refs()) {
    if (!p.trainable) continue;
    names_.push_back(p.name);
    decay_.push_back(p.decay);
    first_.push_back(mx::zeros(p.value->shape(), p.value->dtype()));
    second_.push_back(mx::zeros(p.value->shape(), p.value->dtype()));
  }
}

mx::array Optimizer::update(const std::vector<mx::array>& gradients, const mx::array& loss, double learning_rate) {
  std::vector<mx::array> parameters;
  for (auto& [name, value] : module_.trainable_parameters()) parameters.push_back(std::move(value));
  require(parameters.size() == names_.size(), [&] {
    return Error::Parts{"optimizer", "the trainable parameters must stay those that the optimizer was made for",
                        fmt::format("{} instead of {}", parameters.size(), names_.size()),
                        "freeze and unfreeze before the optimizer is made"};
  });
  AdamWOptions options;
  options.beta1 = settings_.beta1;
  options.beta2 = settings_.beta2;
  options.eps = settings_.eps;
  options.weight_decay = settings_.weight_decay;
  mx::array norm = global_norm(gradients);
  StepControl control;
  control.lr = learning_rate;
  control.step = steps_ + 1;
  control.norm = norm;
  control.max_norm = settings_.clip;
  control.loss = loss;
  auto result =
      adamw(std::move(parameters), gradients, std::move(first_), std::move(second_), decay_, options, control);
  module_.update(result.params);
  first_ = std::move(result.m);
  second_ = std::move(result.v);
  return norm;
}

void Optimizer::confirm(bool applied) { steps_ += applied ? 1 : 0; }

std::vector<mx::array> Optimizer::pending() const {
  std::vector<mx::array> all;
  for (const auto& [name, value] : module_.trainable_parameters()) all.push_back(value);
  all.insert(all.end(), first_.begin(), first_.end());
  all.insert(all.end(), second_.begin(), second_.end());
  return all;
}

NamedArrays Optimizer::state() const {
  NamedArrays arrays;
  for (size_t i = 0; i < names_.size(); i++) arrays.emplace_back("m." + names_[i], first_[i]);
  for (size_t i = 0; i < names_.size(); i++) arrays.emplace_back("v." + names_[i], second_[i]);
  return arrays;
}

void Optimizer::load(const NamedArrays& arrays, int64_t steps, const std::string& where) {
  const auto fail = [&](std::string required, std::string got) {
    throw Error(ErrorKind::kModel, {.where = where,
                                    .required = std::move(required),
                                    .got = std::move(got),
                                    .hint = "the checkpoint of the run that is resumed"});
  };
  std::map<std::string, const mx::array*> given;
  for (const auto& [name, array] : arrays) given[name] = &array;
  // Everything is checked before anything is taken.
  std::vector<mx::array> first, second;
  const auto take = [&](const char* kind, size_t i, const mx::array& now, std::vector<mx::array>& list) {
    const std::string name = kind + names_[i];
    const auto found = given.find(name);
    if (found == given.end()) return fail("the moment " + name + " is needed", "no such array");
    const mx::array& a = *found->second;
    if (a.shape() != now.shape()) {
      return fail(fmt::format("{} must have shape {}", name, ops::to_string(now.shape())),
                  ops::to_string(a.shape()));
    }
    if (!mx::issubdtype(a.dtype(), mx::floating))
      return fail(name + " must be floating point", ops::to_string(a.dtype()));
    list.push_back(mx::astype(a, now.dtype()));
    given.erase(found);
  };
  for (size_t i = 0; i < names_.size(); i++) {
    take("m.", i, first_[i], first);
    take("v.", i, second_[i], second);
  }
  if (!given.empty()) fail("only the moments of the trained parameters are expected", given.begin()->first);
  if (steps < 0) fail("the number of updates must not be negative", std::to_string(steps));
  first_ = std::move(first);
  second_ = std::move(second);
  steps_ = steps;
}

}  // namespace aspis::train
