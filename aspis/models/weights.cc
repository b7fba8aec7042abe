#include "aspis/models/weights.h"

#include <fmt/format.h>
#include <mlx/ops.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <optional>
#include <set>
#include <unordered_map>

#include "aspis/base/error.h"
#include "aspis/io/array_io.h"
#include "aspis/io/names.h"
#include "aspis/models/convnext.h"
#include "aspis/models/registry.h"
#include "aspis/nn/init.h"
#include "aspis/nn/position_table.h"

namespace aspis {
namespace {

using Shape = std::vector<int64_t>;

/// What the loader knows of a family besides the names of its parameters.
struct Family {
  const char* model_type;
  /// What the names of its classifier begin with.
  const char* classifier = "head.";
  /// Entries of pos_embed that are no patches, and whether they stand in its middle.
  int64_t tokens = 0;
  bool middle = false;
  /// Names of other implementations: text to replace by ours (^: at the
  /// beginning only), or a function.
  std::vector<std::pair<const char*, const char*>> renames = {};
  std::optional<std::string> (*translate)(std::string_view) = nullptr;
};

const Family& family_of(const std::string& model_type) {
  static const std::vector<Family> list{
      // BidirectionalMambaBlock of mlx-vision-mamba.
      {.model_type = "vision_mamba",
       .renames = {{".forward_mamba.", ".mamba_blocks.0."}, {".backward_mamba.", ".mamba_blocks.1."}}},
      // mambapy's word.
      {.model_type = "vim", .tokens = 1, .middle = true, .renames = {{".A_log_b", ".A_b_log"}}},
      {.model_type = "vit", .tokens = 1},
      {.model_type = "convnext", .classifier = "head.fc.", .translate = convnext_name_from_torchvision},
      {.model_type = "resnet", .classifier = "fc."},
      // Names of the first releases of VMamba.
      {.model_type = "vmamba",
       .classifier = "classifier.head.",
       .renames = {{"^patch_embed.proj.", "patch_embed.0."},
                   {"^patch_embed.norm.", "patch_embed.2."},
                   {".ln_1.", ".norm."},
                   {".self_attention.", ".op."},
                   {"^norm.", "classifier.norm."},
                   {"^head.", "classifier.head."}}},
  };
  static const Family other{.model_type = ""};
  const auto at =
      std::find_if(list.begin(), list.end(), [&](const Family& f) { return f.model_type == model_type; });
  return at == list.end() ? other : *at;
}

struct Prefix {
  std::string_view text;
  bool average;  // of a running average of the weights
};
constexpr std::array<Prefix, 8> kPrefixes{{{"module.", false},
                                           {"model.", false},
                                           {"backbone.", false},
                                           {"encoder.", false},
                                           {"_orig_mod.", false},
                                           {"model_ema.", true},
                                           {"ema_model.", true},
                                           {"ema.", true}}};

bool is_average(std::string_view group) {
  std::string lower(group);
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
  return lower.find("ema") != std::string::npos;
}

// Counters of PyTorch's batch norm, which nothing reads.
bool needless(std::string_view name) { return name.ends_with(".num_batches_tracked"); }

Shape without_ones(const Shape& shape) {
  Shape s;
  for (const int64_t d : shape) {
    if (d != 1) s.push_back(d);
  }
  return s;
}

std::string shown(const Shape& shape) { return fmt::format("{{{}}}", fmt::join(shape, ", ")); }

Shape shape_of(const mx::array& a) { return {a.shape().begin(), a.shape().end()}; }

/// {O, k.., I} as {O, I, k..}.
Shape first_form(const Shape& s) {
  Shape f{s.front(), s.back()};
  f.insert(f.end(), s.begin() + 1, s.end() - 1);
  return f;
}

/// A place in a file where the weights of a model may lie.
struct Place {
  std::string group, prefix;
  bool average = false;
};

class Matcher {
 public:
  Matcher(const ImageModel& model, const WeightFile& file, const WeightOptions& options)
      : model_(model),
        file_(file),
        options_(options),
        family_(family_of(model.model_type())),
        state_(model.state()) {
    for (const auto& [name, value] : state_) shapes_.emplace(name, shape_of(value));
    report_.file = file.where();
    report_.kind = to_string(file.kind());
    report_.model = model.type_name();
    report_.expected = static_cast<int64_t>(state_.size());
  }

  WeightReport run(NamedArrays* loaded) {
    const Place place = best_place();
    report_.group = place.group;
    report_.prefix = place.prefix;
    collect(place);
    report_.channels_first = channels_first();
    for (const auto& [name, value] : state_) {
      const auto at = found_.find(name);
      if (at == found_.end()) {
        if (options_.adapt && name.starts_with(family_.classifier)) {
          keep(name, value, "the file has no classifier", loaded);
        } else {
          report_.missing.push_back(name);
        }
        continue;
      }
      take(name, *at->second, loaded);
    }
    return std::move(report_);
  }

 private:
  using Names = std::unordered_map<std::string, Shape>;

  /// The model's name for a tensor, or nothing.
  std::optional<std::string> ours(std::string name) const {
    if (shapes_.contains(name)) return name;
    for (const auto& [text, to] : family_.renames) {
      std::string_view from = text;
      const bool anchored = from.starts_with('^');
      if (anchored) from.remove_prefix(1);
      const size_t at = name.find(from);
      if (at != std::string::npos && (!anchored || at == 0)) name.replace(at, from.size(), to);
    }
    if (shapes_.contains(name)) return name;
    if (family_.translate) {
      if (auto other = family_.translate(name); other && shapes_.contains(*other)) return other;
    }
    return std::nullopt;
  }

  Place best_place() const {
    std::map<std::pair<std::string, std::string>, std::pair<int64_t, bool>>
        hits;  // (group, prefix): names, average
    std::vector<std::pair<std::string, std::string>> order;
    for (const WeightTensor& t : file_.tensors()) {
      std::string_view rest = t.name;
      std::string prefix;
      bool average = is_average(t.group);
      for (int depth = 0; depth < 5; depth++) {
        if (ours(std::string(rest))) {
          const auto [at, fresh] = hits.try_emplace({t.group, prefix}, 0, average);
          if (fresh) order.emplace_back(t.group, prefix);
          at->second.first++;
        }
        const auto next = std::find_if(kPrefixes.begin(), kPrefixes.end(),
                                       [&](const Prefix& p) { return rest.starts_with(p.text); });
        if (next == kPrefixes.end()) break;
        prefix += next->text;
        average = average || next->average;
        rest.remove_prefix(next->text.size());
      }
    }
    Place best;
    int64_t most = 0;
    bool have = false;
    for (const auto& key : order) {
      const auto& [count, average] = hits.at(key);
      if (options_.ema && !average) continue;
      // Of two with as many names the weights themselves come before their average.
      if (!have || count > most || (count == most && best.average && !average)) {
        best = {key.first, key.second, average};
        most = count;
        have = true;
      }
    }
    if (!have && options_.ema) {
      throw Error(ErrorKind::kModel, {.where = file_.where(),
                                      .required = "a running average of the weights (a dict or prefix named ema)",
                                      .got = "none with names of this model",
                                      .hint = "leave out --ema"});
    }
    // Without any name in common the largest dict is compared, so that the report says something.
    if (!have) {
      std::map<std::string_view, int64_t> sizes;
      for (const WeightTensor& t : file_.tensors()) {
        if (++sizes[t.group] > most && !t.group.starts_with("optim")) {
          most = sizes[t.group];
          best.group = t.group;
        }
      }
    }
    return best;
  }

  void collect(const Place& place) {
    for (const WeightTensor& t : file_.tensors()) {
      if (t.group != place.group) continue;
      const bool inside = t.name.starts_with(place.prefix);
      const auto name = inside ? ours(t.name.substr(place.prefix.size())) : std::nullopt;
      if (name && found_.emplace(*name, &t).second) continue;
      const bool copy = !inside && std::any_of(kPrefixes.begin(), kPrefixes.end(), [&](const Prefix& p) {
        return p.average && std::string_view(t.name).find(p.text) != std::string_view::npos;
      });
      const bool head = options_.adapt && model_.num_classes() == 0 && inside &&
                        std::string_view(t.name).substr(place.prefix.size()).starts_with(family_.classifier);
      (needless(t.name) || copy || head ? report_.unused : report_.extra).push_back(t.name);
    }
  }

  /// Whether convolutions are in PyTorch's order: what the shapes say, else what the kind of file suggests.
  bool channels_first() const {
    int64_t first = 0, last = 0;
    for (const auto& [name, tensor] : found_) {
      const Shape& want = shapes_.at(name);
      if (want.size() < 4 || tensor->shape.size() != want.size()) continue;
      const Shape turned = first_form(want);
      if (turned == want) continue;
      first += tensor->shape == turned;
      last += tensor->shape == want;
    }
    if (first != last) return first > last;
    if (file_.kind() == WeightKind::kNpz) return false;
    if (file_.kind() == WeightKind::kTorchZip || file_.kind() == WeightKind::kTorchLegacy) return true;
    const auto format = file_.facts().find("format");
    return format != file_.facts().end() && format->second == "pt";
  }

  void take(const std::string& name, const WeightTensor& t, NamedArrays* loaded) {
    const Shape& want = shapes_.at(name);
    const bool floating = t.dtype == TensorDtype::kF32 || t.dtype == TensorDtype::kF16 ||
                          t.dtype == TensorDtype::kBF16 || t.dtype == TensorDtype::kF64;
    if (!floating) {
      report_.misshapen.push_back(
          fmt::format("{} holds {}, not floating-point numbers", name, to_string(t.dtype)));
      return;
    }
    const bool conv = want.size() >= 4 && t.shape.size() == want.size();
    if (conv ? t.shape == (report_.channels_first ? first_form(want) : want)
             : without_ones(t.shape) == without_ones(want)) {
      report_.fitting++;
      if (loaded) loaded->emplace_back(name, value_of(t, conv && report_.channels_first));
      return;
    }
    if (options_.adapt && adapt(name, t, want, loaded)) return;
    report_.misshapen.push_back(fmt::format("{} is {}, not {}", name, shown(t.shape),
                                            shown(conv && report_.channels_first ? first_form(want) : want)));
  }

  static mx::array value_of(const WeightTensor& t, bool turn) {
    std::string buffer;
    mx::array a = mx::astype(to_array(t.packed(buffer)), mx::float32);
    if (!turn) return a;
    std::vector<int> axes{0};
    for (size_t i = 2; i < t.shape.size(); i++) axes.push_back(static_cast<int>(i));
    axes.push_back(1);
    return mx::contiguous(mx::transpose(a, axes));
  }

  void keep(const std::string& name, const mx::array& value, const std::string& why, NamedArrays* loaded) {
    report_.adapted.push_back(fmt::format("{} stays as the model has it: {}", name, why));
    if (loaded) loaded->emplace_back(name, value);
  }

  bool adapt(const std::string& name, const WeightTensor& t, const Shape& want, NamedArrays* loaded) {
    if (name.starts_with(family_.classifier)) {
      const auto at = std::find_if(state_.begin(), state_.end(), [&](const auto& s) { return s.first == name; });
      keep(name, at->second, fmt::format("the file has {}, the model {}", shown(t.shape), shown(want)), loaded);
      return true;
    }
    // The first convolution over other channels: their sum for one, else repeated with the same weight in all.
    const int64_t channels = model_.input_shape().back();
    if (t.shape.size() >= 4 && t.shape.size() == want.size() && want.back() == channels) {
      const int64_t given = report_.channels_first ? t.shape[1] : t.shape.back();
      Shape changed = want;
      changed.back() = given;
      if (given > 0 && t.shape == (report_.channels_first ? first_form(changed) : changed)) {
        report_.adapted.push_back(fmt::format("{} is adapted from {} to {} channels", name, given, channels));
        report_.fitting++;
        if (loaded) loaded->emplace_back(name, with_channels(value_of(t, report_.channels_first), channels));
        return true;
      }
    }
    if (name != "pos_embed" || t.shape.size() != 3 || t.shape[0] != 1 || t.shape[2] != want[2]) return false;
    const size_t axes = model_.input_shape().size() - 1;
    const int64_t from = side(t.shape[1] - family_.tokens, axes), to = side(want[1] - family_.tokens, axes);
    if (from == 0 || to == 0) return false;
    report_.adapted.push_back(fmt::format("{} is interpolated from {} to {} patches", name,
                                          t.shape[1] - family_.tokens, want[1] - family_.tokens));
    report_.fitting++;
    if (loaded) loaded->emplace_back(name, resized(value_of(t, false), Shape(axes, from), Shape(axes, to)));
    return true;
  }

  /// As timm does it: the response to equal channels stays.
  static mx::array with_channels(const mx::array& weight, int64_t channels) {
    const int axis = static_cast<int>(weight.ndim()) - 1;
    if (channels == 1) return mx::sum(weight, axis, true);
    const int64_t given = weight.shape(-1);
    const std::vector<mx::array> copies(static_cast<size_t>((channels + given - 1) / given), weight);
    auto start = mx::Shape(weight.ndim(), 0), stop = weight.shape();
    stop.back() = static_cast<mx::ShapeElem>(channels);
    return mx::slice(mx::concatenate(copies, axis), start, stop) *
           mx::array(static_cast<float>(given) / static_cast<float>(channels));
  }

  /// n as side^axes, or 0.
  static int64_t side(int64_t n, size_t axes) {
    if (n < 1) return 0;
    const auto s =
        static_cast<int64_t>(std::llround(std::pow(static_cast<double>(n), 1.0 / static_cast<double>(axes))));
    int64_t product = 1;
    for (size_t i = 0; i < axes; i++) product *= s;
    return product == n ? s : 0;
  }

  mx::array resized(const mx::array& table, const Shape& from, const Shape& to) const {
    const auto count = [](const Shape& s) {
      mx::ShapeElem n = 1;
      for (const int64_t d : s) n *= static_cast<mx::ShapeElem>(d);
      return n;
    };
    const auto width = table.shape(2), extra = static_cast<mx::ShapeElem>(family_.tokens);
    const auto rows = [&](const mx::array& a, mx::ShapeElem begin, mx::ShapeElem end) {
      return mx::slice(a, {0, begin, 0}, {1, end, width});
    };
    const auto old_at = family_.middle ? count(from) / 2 : 0, new_at = family_.middle ? count(to) / 2 : 0;
    const auto all = table.shape(1);
    const auto patches = mx::concatenate({rows(table, 0, old_at), rows(table, old_at + extra, all)}, 1);
    const auto fresh = resize_positions(patches, from, to);
    return mx::concatenate(
        {rows(fresh, 0, new_at), rows(table, old_at, old_at + extra), rows(fresh, new_at, fresh.shape(1))}, 1);
  }

  const ImageModel& model_;
  const WeightFile& file_;
  const WeightOptions& options_;
  const Family& family_;
  NamedArrays state_;
  Names shapes_;
  std::map<std::string, const WeightTensor*> found_;
  WeightReport report_;
};

std::string first_few(const std::vector<std::string>& names) {
  constexpr size_t kShown = 3;
  std::string s;
  for (size_t i = 0; i < std::min(names.size(), kShown); i++) s += (i ? ", " : "") + names[i].substr(0, 120);
  return names.size() > kShown ? s + ", ..." : s;
}

}  // namespace

std::string WeightReport::faults() const {
  std::vector<std::string> parts;
  const auto add = [&](const char* what, const std::vector<std::string>& names) {
    if (!names.empty()) parts.push_back(fmt::format("{} {} ({})", names.size(), what, first_few(names)));
  };
  add("missing", missing);
  add("unknown", extra);
  add("of another shape", misshapen);
  return fmt::format("{}", fmt::join(parts, "; "));
}

std::string WeightReport::hint() const {
  if (complete()) return "";
  if (fitting == 0) return "aspis model check FILE, which says whose weights these are";
  if (adaptable) {
    return "--adapt, which changes positions, first channels and classifier to those of the model";
  }
  if (misshapen.size() > 3 || fitting * 2 < expected) {
    return "aspis model check FILE, which says which model they fit; --partial takes what fits";
  }
  return "the file of this very model; --partial takes what fits and leaves the rest";
}

std::string WeightReport::text() const {
  std::string s = fmt::format("{}: {}\n", file, kind);
  if (!group.empty()) s += fmt::format("  taken from     {}\n", group);
  if (!prefix.empty()) s += fmt::format("  without prefix {}\n", prefix);
  s += fmt::format("  fitting        {} of {} tensors of {}\n", fitting, expected, model);
  const auto list = [&](const char* what, const std::vector<std::string>& names) {
    if (names.empty()) return;
    s += fmt::format("  {} ({})\n", what, names.size());
    for (const auto& n : names) s += "    " + shown_name(n).substr(1, shown_name(n).size() - 2) + "\n";
  };
  list("missing in the file", missing);
  list("unknown to the model", extra);
  list("of another shape", misshapen);
  list("adapted", adapted);
  if (!unused.empty()) s += fmt::format("  not needed     {} (counters, other copies)\n", unused.size());
  if (!complete()) s += "  try            " + hint() + "\n";
  return s;
}

WeightReport match_weights(const ImageModel& model, const WeightFile& file, const WeightOptions& options) {
  WeightReport report = Matcher(model, file, options).run(nullptr);
  if (report.complete() || options.adapt) return report;
  WeightOptions adapting = options;
  adapting.adapt = true;
  report.adaptable = report.fitting > 0 && Matcher(model, file, adapting).run(nullptr).complete();
  return report;
}

WeightReport load_weights(ImageModel& model, const WeightFile& file, const WeightOptions& options) {
  const WeightReport plan = match_weights(model, file, options);
  if (plan.fitting == 0 || (!plan.complete() && !options.partial)) {
    throw Error(ErrorKind::kModel,
                {.where = file.where(),
                 .required = fmt::format("the weights must be those of this {}", model.model_type()),
                 .got = plan.fitting == 0 ? fmt::format("none of its {} tensors", plan.expected) : plan.faults(),
                 .hint = plan.hint()});
  }
  NamedArrays values;
  WeightReport report = Matcher(model, file, options).run(&values);
  model.load(values, !options.partial);
  return report;
}

std::vector<std::string> models_of(const WeightFile& file) {
  std::vector<std::string> fitting;
  const BlankWeights blank;
  for (const ModelEntry& entry : model_table()) {
    if (match_weights(*make_model(entry.name), file).complete()) fitting.push_back(entry.name);
  }
  return fitting;
}

}  // namespace aspis
