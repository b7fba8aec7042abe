#include "aspis/train/optimizer.h"

#include <fmt/format.h>
#include <mlx/ops.h>

#include <algorithm>
#include <map>

#include "aspis/base/error.h"
#include "aspis/ops/common/primitive.h"
#include "aspis/ops/grad_norm/grad_norm.h"

namespace aspis::train {

namespace {

constexpr double kMuonMomentum = 0.95, kMuonEps = 1e-7, kLambEps = 1e-6;

OptimizerRule rule_of(const OptimizerSettings& s, OptimizerKind kind) {
  OptimizerRule rule{
      .kind = kind, .beta1 = s.beta1, .beta2 = s.beta2, .eps = s.eps, .weight_decay = s.weight_decay};
  rule.nesterov = s.nesterov;
  if (kind == OptimizerKind::kLamb) rule.eps = kLambEps;
  if (kind == OptimizerKind::kMuon) {
    rule.beta1 = kMuonMomentum;
    rule.eps = kMuonEps;
    rule.nesterov = true;
  }
  return rule;
}

std::vector<mx::array> taken(std::vector<mx::array>& from, const std::vector<size_t>& members) {
  std::vector<mx::array> list;
  for (const size_t i : members) list.push_back(std::move(from[i]));
  return list;
}

}  // namespace

Optimizer::Optimizer(Module& module, const OptimizerSettings& settings, const std::vector<double>& rates)
    : module_(module), settings_(settings) {
  const bool muon = settings.kind == OptimizerKind::kMuon;
  const auto trained = static_cast<size_t>(module.trainable_parameters().size());
  require(rates.empty() || rates.size() == trained, [&] {
    return Error::Parts{.where = "optimizer",
                        .required = fmt::format("a share of the learning rate for each of {} parameters", trained),
                        .got = std::to_string(rates.size()),
                        .hint = ""};
  });
  const auto group_of = [&](OptimizerKind kind, double rate) -> Group& {
    for (Group& g : groups_) {
      if (g.rule.kind == kind && g.rate == rate) return g;
    }
    groups_.push_back({rule_of(settings, kind), rate, {}});
    return groups_.back();
  };
  for (const ParameterRef& p : module.parameter_refs()) {
    if (!p.trainable) continue;
    // Muon is for matrices; what does not decay (states, positions, tokens) is none, whatever its shape.
    const bool rest = muon && !(p.decay && p.value->ndim() >= 2);
    Group& group =
        group_of(rest ? OptimizerKind::kAdamW : settings.kind, rates.empty() ? 1.0 : rates[names_.size()]);
    group.members.push_back(names_.size());
    names_.push_back(p.name);
    decay_.push_back(p.decay);
    const auto zeros = mx::zeros(p.value->shape(), p.value->dtype());
    first_.push_back(zeros);
    second_.push_back(state_count(group.rule.kind) == 2
                          ? std::optional(mx::zeros(p.value->shape(), p.value->dtype()))
                          : std::nullopt);
    // A copy: the parameter's own buffer is updated in place.
    if (settings.ema > 0) averages_.push_back(mx::add(*p.value, zeros));
  }
}

std::vector<mx::array> Optimizer::parameters() const {
  std::vector<mx::array> all;
  for (auto& [name, value] : module_.trainable_parameters()) all.push_back(std::move(value));
  require(all.size() == names_.size(), [&] {
    return Error::Parts{"optimizer", "the trainable parameters must stay those that the optimizer was made for",
                        fmt::format("{} instead of {}", all.size(), names_.size()),
                        "freeze and unfreeze before the optimizer is made"};
  });
  return all;
}

mx::array Optimizer::update(const std::vector<mx::array>& gradients, const mx::array& loss, double learning_rate) {
  std::vector<mx::array> all = parameters();
  const mx::array norm = global_norm(gradients);
  const auto t = static_cast<double>(steps_);
  std::vector<mx::array> updated = all;  // overwritten below; keeps the order
  all.clear();
  for (const Group& group : groups_) {
    StepControl control;
    control.lr = learning_rate * group.rate;
    control.step = steps_ + 1;
    control.norm = norm;
    control.max_norm = settings_.clip;
    control.loss = loss;
    control.average_decay = std::min(settings_.ema, (1 + t) / (10 + t));
    if (!averages_.empty()) control.averages = taken(averages_, group.members);
    std::vector<std::vector<mx::array>> states{taken(first_, group.members)};
    if (state_count(group.rule.kind) == 2) {
      std::vector<mx::array> list;
      for (const size_t i : group.members) list.push_back(std::move(*second_[i]));
      states.push_back(std::move(list));
    }
    std::vector<mx::array> of_group;
    std::vector<bool> decay;
    for (const size_t i : group.members) {
      of_group.push_back(gradients[i]);
      decay.push_back(decay_[i]);
    }
    auto r = optimizer_step(group.rule, taken(updated, group.members), std::move(of_group), std::move(states),
                            decay, std::move(control));
    for (size_t j = 0; j < group.members.size(); j++) {
      const size_t i = group.members[j];
      updated[i] = std::move(r.params[j]);
      first_[i] = std::move(r.states[0][j]);
      if (r.states.size() == 2) second_[i] = std::move(r.states[1][j]);
      if (!averages_.empty()) averages_[i] = std::move(r.averages[j]);
    }
  }
  module_.update(updated);
  return norm;
}

void Optimizer::confirm(bool applied) { steps_ += applied ? 1 : 0; }

std::vector<mx::array> Optimizer::pending() const {
  std::vector<mx::array> all = parameters();
  all.insert(all.end(), first_.begin(), first_.end());
  for (const auto& v : second_) {
    if (v) all.push_back(*v);
  }
  all.insert(all.end(), averages_.begin(), averages_.end());
  return all;
}

void Optimizer::swap_averages() {
  if (averages_.empty()) return;
  std::vector<mx::array> now = parameters();
  module_.update(averages_);
  averages_ = std::move(now);
}

NamedArrays Optimizer::state() const {
  NamedArrays arrays;
  for (size_t i = 0; i < names_.size(); i++) arrays.emplace_back("m." + names_[i], first_[i]);
  for (size_t i = 0; i < names_.size(); i++) {
    if (second_[i]) arrays.emplace_back("v." + names_[i], *second_[i]);
  }
  if (averages_.empty()) return arrays;
  const auto all = parameters();
  for (size_t i = 0; i < names_.size(); i++) arrays.emplace_back("p." + names_[i], all[i]);
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
  const auto take = [&](const char* kind, size_t i, const mx::array& now) {
    const std::string name = kind + names_[i];
    const auto found = given.find(name);
    if (found == given.end()) fail("the moment " + name + " is needed", "no such array");
    const mx::array& a = *found->second;
    if (a.shape() != now.shape()) {
      fail(fmt::format("{} must have shape {}", name, ops::to_string(now.shape())), ops::to_string(a.shape()));
    }
    if (!mx::issubdtype(a.dtype(), mx::floating)) {
      fail(name + " must be floating point", ops::to_string(a.dtype()));
    }
    given.erase(found);
    return mx::astype(a, now.dtype());
  };
  std::vector<mx::array> first, own;
  std::vector<std::optional<mx::array>> second(names_.size());
  for (size_t i = 0; i < names_.size(); i++) {
    first.push_back(take("m.", i, first_[i]));
    if (second_[i]) second[i] = take("v.", i, *second_[i]);
    if (!averages_.empty()) own.push_back(take("p.", i, first_[i]));
  }
  if (!given.empty()) fail("only the moments of the trained parameters are expected", given.begin()->first);
  if (steps < 0) fail("the number of updates must not be negative", std::to_string(steps));
  first_ = std::move(first);
  second_ = std::move(second);
  steps_ = steps;
  if (averages_.empty()) return;
  averages_ = parameters();
  module_.update(own);
}

}  // namespace aspis::train
