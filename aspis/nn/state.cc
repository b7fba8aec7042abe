#include "aspis/nn/state.h"

#include <fmt/format.h>
#include <mlx/ops.h>

#include <map>

#include "aspis/base/error.h"
#include "aspis/base/file.h"
#include "aspis/io/array_io.h"

namespace aspis {
namespace {

constexpr const char* kWhere = "State";
constexpr const char* kFormat = "aspis.state";

std::string shape_text(const mx::array& a) { return fmt::format("{{{}}}", fmt::join(a.shape(), ", ")); }

/// "conv {2, 3, 8}, ssm {2, 8, 4}".
std::string describe(const NamedArrays& arrays) {
  std::vector<std::string> parts;
  for (const auto& [name, value] : arrays) parts.push_back(name + " " + shape_text(value));
  return fmt::format("{}", fmt::join(parts, ", "));
}

template <typename F>
State mapped(const State& state, F&& f) {
  NamedArrays arrays;
  for (const auto& [name, value] : state.arrays()) arrays.emplace_back(name, f(value));
  return {state.kind(), std::move(arrays)};
}

}  // namespace

State::State(std::string kind, NamedArrays arrays) : kind_(std::move(kind)), arrays_(std::move(arrays)) {
  require(!arrays_.empty(), [] {
    return Error::Parts{.where = kWhere, .required = "at least one array", .got = "none", .hint = ""};
  });
  for (const auto& [name, value] : arrays_) {
    require(value.ndim() >= 1 && value.shape(0) == arrays_[0].second.shape(0), [&] {
      return Error::Parts{.where = kWhere,
                          .required = "arrays with the same number of sequences first",
                          .got = describe(arrays_),
                          .hint = ""};
    });
  }
}

int64_t State::bytes() const {
  int64_t sum = 0;
  for (const auto& [name, value] : arrays_) sum += static_cast<int64_t>(value.nbytes());
  return sum;
}

const mx::array& State::at(std::string_view name) const {
  for (const auto& [key, value] : arrays_) {
    if (key == name) return value;
  }
  throw Error(ErrorKind::kUsage, {.where = kWhere,
                                  .required = fmt::format("an array \"{}\" in a state of kind {}", name, kind_),
                                  .got = describe(arrays_),
                                  .hint = ""});
}

State State::gather(const std::vector<int32_t>& sequences) const {
  for (const int32_t i : sequences) {
    require(i >= 0 && i < batch(), [&] {
      return Error::Parts{.where = kWhere,
                          .required = fmt::format("numbers of sequences in [0, {})", batch()),
                          .got = std::to_string(i),
                          .hint = ""};
    });
  }
  const mx::array indices(sequences.data(), {static_cast<int>(sequences.size())}, mx::int32);
  return mapped(*this, [&](const mx::array& a) { return mx::take(a, indices, 0); });
}

State State::fork(int copies) const {
  require(copies >= 1, [&] {
    return Error::Parts{
        .where = kWhere, .required = "copies must be at least 1", .got = std::to_string(copies), .hint = ""};
  });
  return mapped(*this, [&](const mx::array& a) { return mx::repeat(a, copies, 0); });
}

std::vector<State> State::split() const {
  std::vector<State> list;
  for (int i = 0; i < batch(); i++) {
    list.push_back(mapped(*this, [&](const mx::array& a) {
      mx::Shape start(a.ndim(), 0), stop = a.shape();
      start[0] = i, stop[0] = i + 1;
      return mx::slice(a, start, stop);
    }));
  }
  return list;
}

State State::stack(const std::vector<State>& states) {
  require(!states.empty(), [] {
    return Error::Parts{.where = kWhere, .required = "at least one state to stack", .got = "none", .hint = ""};
  });
  NamedArrays arrays;
  for (const auto& s : states) s.require_like(states[0], kWhere);
  for (size_t i = 0; i < states[0].arrays().size(); i++) {
    std::vector<mx::array> parts;
    for (const auto& s : states) {
      parts.push_back(s.arrays()[i].second);
      require(parts.back().dtype() == parts[0].dtype(), [&] {
        return Error::Parts{.where = kWhere,
                            .required = "states of one dtype",
                            .got = "several for " + states[0].arrays()[i].first,
                            .hint = ""};
      });
    }
    arrays.emplace_back(states[0].arrays()[i].first, mx::concatenate(parts, 0));
  }
  return {states[0].kind(), std::move(arrays)};
}

void State::require_like(const State& like, std::string_view where) const {
  bool fits = kind_ == like.kind_ && arrays_.size() == like.arrays_.size();
  for (size_t i = 0; fits && i < arrays_.size(); i++) {
    const auto &a = arrays_[i].second.shape(), &b = like.arrays_[i].second.shape();
    fits = arrays_[i].first == like.arrays_[i].first && a.size() == b.size() &&
           std::equal(a.begin() + 1, a.end(), b.begin() + 1);
  }
  require(fits, [&] {
    return Error::Parts{.where = std::string(where),
                        .required = fmt::format("a state of kind {} with {}", like.kind_, describe(like.arrays_)),
                        .got = fmt::format("kind {} with {}", kind_, describe(arrays_)),
                        .hint = ""};
  });
}

void State::save(const std::filesystem::path& path) const {
  write_file_atomic(path, dump_arrays(arrays_, {{"format", kFormat}, {"kind", kind_}, {"order", [&] {
                                                   std::vector<std::string> names;
                                                   for (const auto& [name, value] : arrays_) names.push_back(name);
                                                   return fmt::format("{}", fmt::join(names, ","));
                                                 }()}}));
}

State State::load(const std::filesystem::path& path, std::string_view kind) {
  std::map<std::string, std::string> metadata;
  const NamedArrays stored = load_arrays(read_file(path), path.string(), &metadata);
  const auto fail = [&](std::string required, std::string got) {
    throw Error(ErrorKind::kModel,
                {.where = path.string(), .required = std::move(required), .got = std::move(got), .hint = ""});
  };
  if (metadata["format"] != kFormat) fail("a file written by State::save", "other tensors");
  if (!kind.empty() && metadata["kind"] != kind) {
    fail(fmt::format("a state of kind {}", kind), metadata["kind"]);
  }
  // The order of the arrays is part of a state; a file may hold them in another one.
  NamedArrays arrays;
  std::string_view order = metadata["order"];
  while (!order.empty()) {
    const std::string_view name = order.substr(0, order.find(','));
    order.remove_prefix(std::min(order.size(), name.size() + 1));
    for (const auto& [key, value] : stored) {
      if (key == name) arrays.emplace_back(key, value);
    }
  }
  if (arrays.empty() || arrays.size() != stored.size()) fail("the arrays that it names", describe(stored));
  try {
    return {metadata["kind"], std::move(arrays)};
  } catch (const Error& e) {
    throw Error(ErrorKind::kModel, {.where = path.string(), .required = e.parts().required, .got = e.parts().got, .hint = ""});
  }
}

}  // namespace aspis
