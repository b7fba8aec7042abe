#include "aspis/train/fine_tune.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <string>

#include "aspis/base/error.h"

namespace aspis::train {
namespace {

std::vector<std::string> words_of(std::string_view text) {
  std::vector<std::string> words;
  while (!text.empty()) {
    const size_t comma = std::min(text.find(','), text.size());
    if (comma > 0) words.emplace_back(text.substr(0, comma));
    text.remove_prefix(std::min(comma + 1, text.size()));
  }
  return words;
}

// True for what is in a module: "blocks.0.norm.weight" in "blocks.0", and in the
// flat names of Edifice "stage_0_block_1_norm.weight" in "stage_0".
bool is_part_of(const std::string& name, const std::string& module) {
  if (module.empty() || name.size() <= module.size() || !name.starts_with(module)) return false;
  const bool numbered = module.back() >= '0' && module.back() <= '9';
  return name[module.size()] == '.' || (numbered && name[module.size()] == '_');
}

}  // namespace

std::vector<int64_t> stage_depths(ImageModel& model) {
  const auto stages = model.stages();
  const auto parameters = model.parameter_refs();
  std::vector<int64_t> depths(parameters.size(), -1);
  size_t last = 0;  // the last parameter of a stage
  for (size_t i = 0; i < parameters.size(); i++) {
    for (size_t s = 0; s < stages.size(); s++) {
      if (!is_part_of(parameters[i].name, stages[s].name)) continue;
      depths[i] = static_cast<int64_t>(s) + 1;
      last = i;
    }
  }
  int64_t before = 0;
  for (size_t i = 0; i < depths.size(); i++) {
    if (depths[i] < 0) depths[i] = i > last ? static_cast<int64_t>(stages.size()) + 1 : before;
    before = depths[i];
  }
  return depths;
}

int64_t freeze_part(ImageModel& model, std::string_view what) {
  const auto stages = static_cast<int64_t>(model.stages().size());
  int64_t depth = -1;
  const auto [end, error] = std::from_chars(what.data(), what.data() + what.size(), depth);
  const bool number = error == std::errc() && end == what.data() + what.size();
  if (what == "all") {
    depth = stages;
  } else if (number) {
    require(depth >= 0 && depth <= stages, [&] {
      return Error::Parts{.where = "--freeze",
                          .required = fmt::format("the model has {} stages", stages),
                          .got = std::string(what),
                          .hint = "all"};
    });
  } else {
    int64_t count = 0;
    const auto words = words_of(what);
    require(!words.empty(), [&] {
      return Error::Parts{.where = "--freeze",
                          .required = "'all', a number of stages or names are needed",
                          .got = std::string(what),
                          .hint = ""};
    });
    for (const std::string& word : words) {
      // The name of a module means all that is in it.
      int64_t inside = 0;
      for (const auto& p : model.parameter_refs()) {
        if (is_part_of(p.name, word)) inside += model.freeze(p.name);
      }
      count += inside > 0 ? inside : model.freeze(word);
    }
    return count;
  }
  const auto depths = stage_depths(model);
  const auto parameters = model.parameter_refs();
  int64_t count = 0;
  for (size_t i = 0; i < parameters.size(); i++) {
    if (depths[i] <= depth) count += model.freeze(parameters[i].name);
  }
  return count;
}

std::vector<double> learning_rate_shares(ImageModel& model, double decay) {
  require(decay > 0 && decay <= 1, [&] {
    return Error::Parts{.where = "--layer-decay",
                        .required = "a number above 0 and at most 1 is needed",
                        .got = fmt::format("{:g}", decay),
                        .hint = ""};
  });
  const auto deepest = static_cast<int64_t>(model.stages().size()) + 1;
  const auto depths = stage_depths(model);
  const auto parameters = model.parameter_refs();
  std::vector<double> shares;
  for (size_t i = 0; i < parameters.size(); i++) {
    if (parameters[i].trainable) shares.push_back(std::pow(decay, static_cast<double>(deepest - depths[i])));
  }
  return shares;
}

}  // namespace aspis::train
