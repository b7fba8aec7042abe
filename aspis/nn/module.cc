#include "aspis/nn/module.h"

#include <fmt/format.h>
#include <mlx/ops.h>
#include <mlx/transforms.h>

#include <algorithm>
#include <unordered_map>

#include "aspis/base/error.h"

namespace aspis {
namespace {

std::string shape_string(const mx::Shape& shape) { return fmt::format("{{{}}}", fmt::join(shape, ", ")); }

std::string joined(const std::string& prefix, const std::string& name) {
  return prefix.empty() ? name : prefix + "." + name;
}

/// "a, b, c and 12 more".
std::string first_few(const std::vector<std::string>& names) {
  constexpr size_t kShown = 4;
  const size_t shown = std::min(kShown, names.size());
  std::string text =
      fmt::format("{}", fmt::join(names.begin(), names.begin() + static_cast<ptrdiff_t>(shown), ", "));
  if (names.size() > shown) text += fmt::format(" and {} more", names.size() - shown);
  return text;
}

/// Axes of size 1 say nothing about the order of elements, and file formats
/// differ in them: a depthwise weight is {D, W}, {D, 1, W} or {D, W, 1}.
mx::Shape without_ones(const mx::Shape& shape) {
  mx::Shape kept;
  for (const auto n : shape) {
    if (n != 1) kept.push_back(n);
  }
  return kept;
}

bool is_floating(mx::Dtype dtype) { return mx::issubdtype(dtype, mx::floating); }

}  // namespace

bool glob_match(std::string_view pattern, std::string_view text) {
  size_t p = 0, t = 0, star = std::string_view::npos, star_text = 0;
  while (t < text.size()) {
    if (p < pattern.size() && (pattern[p] == '?' || (pattern[p] == text[t] && pattern[p] != '*'))) {
      p++, t++;
    } else if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      star_text = t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++star_text;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') p++;
  return p == pattern.size();
}

void Module::add_entry(Entry entry) {
  for (const auto& e : entries_) {
    require(e.name != entry.name, [&] {
      return Error::Parts{.where = type_name(),
                          .required = "names of parameters and children must differ",
                          .got = fmt::format("'{}' twice", entry.name),
                          .hint = ""};
    });
  }
  entries_.push_back(std::move(entry));
}

void Module::add_parameter(std::string name, mx::array& value, Decay decay) {
  add_entry({std::move(name), &value, nullptr, false, decay == Decay::kYes, false});
}

void Module::add_buffer(std::string name, mx::array& value) {
  add_entry({std::move(name), &value, nullptr, true, false, true});
}

void Module::add_child(std::string name, Module& child) {
  add_entry({std::move(name), nullptr, &child, false, false, false});
}

void Module::visit(const std::string& prefix, const Visit& f) {
  for (auto& e : entries_) {
    const std::string name = joined(prefix, e.name);
    if (e.child) {
      e.child->visit(name, f);
    } else {
      f(name, e);
    }
  }
}

void Module::visit(const Visit& f) const { const_cast<Module*>(this)->visit("", f); }

NamedArrays Module::parameters() const {
  NamedArrays list;
  visit([&](const std::string& name, Entry& e) {
    if (!e.is_buffer) list.emplace_back(name, *e.array);
  });
  return list;
}

NamedArrays Module::trainable_parameters() const {
  NamedArrays list;
  visit([&](const std::string& name, Entry& e) {
    if (!e.is_buffer && !e.frozen) list.emplace_back(name, *e.array);
  });
  return list;
}

NamedArrays Module::buffers() const {
  NamedArrays list;
  visit([&](const std::string& name, Entry& e) {
    if (e.is_buffer) list.emplace_back(name, *e.array);
  });
  return list;
}

NamedArrays Module::state() const {
  NamedArrays list;
  visit([&](const std::string& name, Entry& e) { list.emplace_back(name, *e.array); });
  return list;
}

std::vector<ParameterRef> Module::parameter_refs() {
  std::vector<ParameterRef> list;
  visit("", [&](const std::string& name, Entry& e) {
    if (!e.is_buffer) list.push_back({name, e.array, !e.frozen, e.decay});
  });
  return list;
}

std::vector<mx::array*> Module::buffer_refs() {
  std::vector<mx::array*> list;
  visit("", [&](const std::string&, Entry& e) {
    if (e.is_buffer) list.push_back(e.array);
  });
  return list;
}

void Module::update(const std::vector<mx::array>& values) {
  std::vector<ParameterRef> refs;
  for (auto& r : parameter_refs()) {
    if (r.trainable) refs.push_back(std::move(r));
  }
  require(refs.size() == values.size(), [&] {
    return Error::Parts{.where = type_name() + ".update",
                        .required = fmt::format("one array for each of {} trainable parameters", refs.size()),
                        .got = fmt::format("{} arrays", values.size()),
                        .hint = ""};
  });
  for (size_t i = 0; i < refs.size(); i++) {
    require(refs[i].value->shape() == values[i].shape(), [&] {
      return Error::Parts{
          .where = type_name() + ".update",
          .required = fmt::format("{} must have shape {}", refs[i].name, shape_string(refs[i].value->shape())),
          .got = shape_string(values[i].shape()),
          .hint = ""};
    });
  }
  for (size_t i = 0; i < refs.size(); i++) *refs[i].value = values[i];
}

void Module::update(const NamedArrays& values) {
  std::unordered_map<std::string, mx::array*> places;
  std::vector<std::string> names;
  visit("", [&](const std::string& name, Entry& e) {
    places.emplace(name, e.array);
    names.push_back(name);
  });
  for (const auto& [name, value] : values) {
    const auto at = places.find(name);
    require(at != places.end(), [&, &n = name] {
      const std::string near = nearest_word(n, names);
      return Error::Parts{.where = type_name() + ".update",
                          .required = "the name of a parameter or buffer",
                          .got = fmt::format("'{}'", n),
                          .hint = near};
    });
    require(at->second->shape() == value.shape(), [&, &n = name, &v = value] {
      return Error::Parts{.where = type_name() + ".update",
                          .required = fmt::format("{} must have shape {}", n, shape_string(at->second->shape())),
                          .got = shape_string(v.shape()),
                          .hint = ""};
    });
  }
  for (const auto& [name, value] : values) *places.at(name) = value;
}

void Module::load(const NamedArrays& values, bool strict) {
  std::unordered_map<std::string, const mx::array*> given;
  for (const auto& [name, value] : values) given.emplace(name, &value);
  std::vector<std::string> missing, extra, misshapen;
  std::vector<std::pair<mx::array*, mx::array>> changes;
  visit("", [&](const std::string& name, Entry& e) {
    const auto at = given.find(name);
    if (at == given.end()) {
      missing.push_back(name);
      return;
    }
    if (without_ones(at->second->shape()) != without_ones(e.array->shape())) {
      misshapen.push_back(
          fmt::format("{} is {} not {}", name, shape_string(at->second->shape()), shape_string(e.array->shape())));
    } else {
      changes.emplace_back(e.array, mx::reshape(mx::astype(*at->second, e.array->dtype()), e.array->shape()));
    }
    given.erase(at);
  });
  for (const auto& [name, value] : values) {
    if (given.count(name)) extra.push_back(name);
  }
  if (!strict) {
    missing.clear();
    extra.clear();
  }
  std::vector<std::string> faults;
  const auto report = [&](const char* what, const std::vector<std::string>& names) {
    if (!names.empty()) faults.push_back(fmt::format("{} {} ({})", names.size(), what, first_few(names)));
  };
  report("missing", missing);
  report("unknown", extra);
  report("of another shape", misshapen);
  if (!faults.empty()) {
    throw Error(ErrorKind::kModel, {.where = type_name() + ".load",
                                    .required = "the tensors must be those of this model",
                                    .got = fmt::format("{}", fmt::join(faults, "; ")),
                                    .hint = "load them into the model and config they were saved from"});
  }
  for (auto& [place, value] : changes) *place = std::move(value);
}

int64_t Module::set_frozen(std::string_view pattern, bool frozen) {
  int64_t count = 0;
  std::vector<std::string> names;
  visit("", [&](const std::string& name, Entry& e) {
    if (e.is_buffer) return;
    names.push_back(name);
    if (!glob_match(pattern, name)) return;
    e.frozen = frozen;
    count++;
  });
  require(count > 0, [&] {
    const std::string near = nearest_word(pattern, names);
    return Error::Parts{.where = type_name() + (frozen ? ".freeze" : ".unfreeze"),
                        .required = "a pattern that matches the dotted name of some parameter",
                        .got = fmt::format("'{}'", pattern),
                        .hint = near.empty() ? "a pattern such as \"blocks.0.*\"" : near};
  });
  return count;
}

int64_t Module::freeze(std::string_view pattern) { return set_frozen(pattern, true); }
int64_t Module::unfreeze(std::string_view pattern) { return set_frozen(pattern, false); }

void Module::train(bool on) {
  training_ = on;
  for (auto& e : entries_) {
    if (e.child) e.child->train(on);
  }
}

void Module::cast(mx::Dtype dtype) {
  visit("", [&](const std::string&, Entry& e) {
    if (is_floating(e.array->dtype())) *e.array = mx::astype(*e.array, dtype);
  });
}

int64_t Module::parameter_count() const {
  int64_t n = 0;
  visit([&](const std::string&, Entry& e) { n += e.is_buffer ? 0 : static_cast<int64_t>(e.array->size()); });
  return n;
}

int64_t Module::trainable_count() const {
  int64_t n = 0;
  visit([&](const std::string&, Entry& e) {
    n += e.is_buffer || e.frozen ? 0 : static_cast<int64_t>(e.array->size());
  });
  return n;
}

int64_t Module::parameter_bytes() const {
  int64_t n = 0;
  visit([&](const std::string&, Entry& e) { n += e.is_buffer ? 0 : static_cast<int64_t>(e.array->nbytes()); });
  return n;
}

void Module::append_rows(const std::string& name, int depth, std::vector<SummaryRow>& rows) const {
  std::vector<std::string> shapes;
  for (const auto& e : entries_) {
    if (e.array)
      shapes.push_back(e.name + " " + shape_string(e.array->shape()) + (e.is_buffer ? " (buffer)" : ""));
  }
  rows.push_back({name, type_name(), fmt::format("{}", fmt::join(shapes, ", ")), depth, parameter_count(),
                  trainable_count()});
  for (const auto& e : entries_) {
    if (e.child) e.child->append_rows(joined(name, e.name), depth + 1, rows);
  }
}

std::vector<Module::SummaryRow> Module::summary_rows() const {
  std::vector<SummaryRow> rows;
  append_rows("", 0, rows);
  return rows;
}

std::string Module::summary(int max_depth) const {
  auto rows = summary_rows();
  std::erase_if(rows, [&](const SummaryRow& r) { return r.depth > max_depth; });
  size_t name_width = 4, type_width = 4;
  for (auto& r : rows) {
    r.name = std::string(2 * static_cast<size_t>(r.depth), ' ') + (r.name.empty() ? "(model)" : r.name);
    name_width = std::max(name_width, r.name.size());
    type_width = std::max(type_width, r.type.size());
  }
  std::string text =
      fmt::format("{:<{}}  {:<{}}  {:>12}  {}\n", "name", name_width, "type", type_width, "parameters", "shapes");
  for (const auto& r : rows) {
    std::string line =
        fmt::format("{:<{}}  {:<{}}  {:>12}  {}", r.name, name_width, r.type, type_width, r.parameters, r.shapes);
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + "\n";
  }
  return text + fmt::format("total {} parameters, {} trainable, {:.2f} MiB\n", parameter_count(),
                            trainable_count(), static_cast<double>(parameter_bytes()) / (1 << 20));
}

namespace {

/// Puts the arrays back when the scope ends, however it ends.
class RestoreParameters {
 public:
  explicit RestoreParameters(std::vector<ParameterRef> refs) : refs_(std::move(refs)) {
    for (const auto& r : refs_) saved_.push_back(*r.value);
  }
  RestoreParameters(const RestoreParameters&) = delete;
  RestoreParameters& operator=(const RestoreParameters&) = delete;
  ~RestoreParameters() {
    for (size_t i = 0; i < refs_.size(); i++) *refs_[i].value = std::move(saved_[i]);
  }
  const std::vector<mx::array>& saved() const { return saved_; }
  void swap_in(const std::vector<mx::array>& traced) {
    for (size_t i = 0; i < refs_.size(); i++) *refs_[i].value = traced[i];
  }

 private:
  std::vector<ParameterRef> refs_;
  std::vector<mx::array> saved_;
};

}  // namespace

ValueAndGrad value_and_grad(Module& module, const LossFn& fn, const std::vector<mx::array>& batch) {
  auto refs = module.parameter_refs();
  std::erase_if(refs, [](const ParameterRef& r) { return !r.trainable; });
  require(!refs.empty(), [&] {
    return Error::Parts{.where = "value_and_grad",
                        .required = "at least one trainable parameter",
                        .got = module.type_name() + " with none",
                        .hint = "unfreeze some, e.g. unfreeze(\"head.*\")"};
  });
  RestoreParameters guard(std::move(refs));
  const auto traced_fn = [&](const std::vector<mx::array>& traced) {
    guard.swap_in(traced);
    auto outputs = fn(batch);
    require(!outputs.empty() && outputs[0].size() == 1 && outputs[0].ndim() == 0, [&] {
      return Error::Parts{.where = "value_and_grad",
                          .required = "the first output of the loss function must be a scalar",
                          .got = outputs.empty() ? "no output" : "shape " + shape_string(outputs[0].shape()),
                          .hint = "take the mean over the batch"};
    });
    return outputs;
  };
  std::vector<int> argnums(guard.saved().size());
  for (size_t i = 0; i < argnums.size(); i++) argnums[i] = static_cast<int>(i);
  auto [values, gradients] = mx::value_and_grad(traced_fn, argnums)(guard.saved());
  return {std::move(values), std::move(gradients)};
}

}  // namespace aspis
