#include "aspis/io/config_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "aspis/base/utf8.h"
#include "aspis/io/json_strict.h"

namespace aspis {

using Json = nlohmann::ordered_json;

struct ConfigReader::Document {
  Json root;
  std::string where;
  ErrorKind kind;
};

struct ConfigReader::Node {
  const Json* object;  // nullptr for an absent one
  std::string path;    // "" or "mixer."
  std::set<std::string, std::less<>> asked;
  std::vector<std::shared_ptr<Node>> children;

  const Json* find(std::string_view key) const {
    if (!object) return nullptr;
    const auto it = object->find(key);
    return it == object->end() || it->is_null() ? nullptr : &*it;
  }
  const Json* ask(std::string_view key) {
    asked.emplace(key);
    return find(key);
  }
};

namespace {

std::string kind_of(const Json& v) {
  if (v.is_string()) {
    const std::string& s = v.get_ref<const std::string&>();
    return "the string \"" + to_valid_utf8(s.substr(0, 60)) + (s.size() > 60 ? "...\"" : "\"");
  }
  if (v.is_object()) return "an object";
  if (v.is_array()) return "a list";
  if (v.is_null()) return "null";
  return v.dump();
}

std::string shown_bound(double v) { return fmt::format("{:g}", v); }

struct Reporter {
  const std::string& where;
  ErrorKind kind;
  std::string key;

  [[noreturn]] void fail(std::string required, std::string got, std::string hint = {}) const {
    throw Error(kind,
                {.where = where, .required = std::move(required), .got = std::move(got), .hint = std::move(hint)});
  }
  int64_t integer(const Json& v, int64_t lo, int64_t hi) const {
    if (!v.is_number_integer()) fail(fmt::format("{} must be an integer in {}..{}", key, lo, hi), kind_of(v));
    const int64_t i = v.get<int64_t>();
    if (i < lo || i > hi) fail(fmt::format("{} must be an integer in {}..{}", key, lo, hi), fmt::format("{}", i));
    return i;
  }
  double number(const Json& v, double lo, double hi) const {
    const std::string required =
        fmt::format("{} must be a number in {}..{}", key, shown_bound(lo), shown_bound(hi));
    if (!v.is_number()) fail(required, kind_of(v));
    const double d = v.get<double>();
    if (!(std::isfinite(d) && d >= lo && d <= hi)) fail(required, v.dump());
    return d;
  }
  const std::string& text(const Json& v) const {
    if (!v.is_string()) fail(key + " must be a string", kind_of(v));
    return v.get_ref<const std::string&>();
  }
  const Json& list(const Json& v) const {
    if (!v.is_array()) fail(key + " must be a list", kind_of(v));
    return v;
  }
  Reporter item(size_t i) const { return {where, kind, fmt::format("{}[{}]", key, i)}; }
};

template <typename Document, typename Node>
Reporter reporter(const Document& d, const Node& n, std::string_view key) {
  return {d.where, d.kind, n.path + std::string(key)};
}

}  // namespace

ConfigReader::ConfigReader(std::string_view text, std::string where, ErrorKind kind)
    : document_(std::make_shared<Document>()), node_(std::make_shared<Node>()) {
  document_->root = parse_json_strict(text, where, kind);
  document_->where = std::move(where);
  document_->kind = kind;
  if (!document_->root.is_object()) {
    throw Error(kind, {.where = document_->where,
                       .required = "the text must be a JSON object",
                       .got = kind_of(document_->root),
                       .hint = {}});
  }
  node_->object = &document_->root;
}

ConfigReader::ConfigReader(std::shared_ptr<Document> document, std::shared_ptr<Node> node)
    : document_(std::move(document)), node_(std::move(node)) {}
ConfigReader::~ConfigReader() = default;
ConfigReader::ConfigReader(ConfigReader&&) noexcept = default;
ConfigReader& ConfigReader::operator=(ConfigReader&&) noexcept = default;

bool ConfigReader::has(std::string_view key) const { return node_->find(key) != nullptr; }

void ConfigReader::require_keys(std::initializer_list<std::string_view> keys) const {
  for (const auto key : keys) {
    if (!has(key)) reporter(*document_, *node_, key).fail(fmt::format("{}{} must be given", node_->path, key), {});
  }
}

int64_t ConfigReader::read_integer(std::string_view key, int64_t value, int64_t lo, int64_t hi) {
  const Json* v = node_->ask(key);
  return v ? reporter(*document_, *node_, key).integer(*v, lo, hi) : value;
}

double ConfigReader::read_number(std::string_view key, double value, double lo, double hi) {
  const Json* v = node_->ask(key);
  return v ? reporter(*document_, *node_, key).number(*v, lo, hi) : value;
}

void ConfigReader::flag(std::string_view key, bool& value) {
  const Json* v = node_->ask(key);
  if (!v) return;
  if (!v->is_boolean()) {
    const Reporter r = reporter(*document_, *node_, key);
    r.fail(r.key + " must be true or false", kind_of(*v));
  }
  value = v->get<bool>();
}

void ConfigReader::text(std::string_view key, std::string& value) {
  if (const Json* v = node_->ask(key)) value = reporter(*document_, *node_, key).text(*v);
}

void ConfigReader::choice(std::string_view key, std::string& value, const std::vector<std::string>& choices) {
  const Json* v = node_->ask(key);
  if (!v) return;
  const Reporter r = reporter(*document_, *node_, key);
  const std::string& word = r.text(*v);
  if (std::find(choices.begin(), choices.end(), word) == choices.end()) {
    r.fail(fmt::format("{} must be one of {}", r.key, fmt::join(choices, ", ")), kind_of(*v),
           nearest_word(word, choices));
  }
  value = word;
}

void ConfigReader::choice(std::string_view key, std::string& value, std::initializer_list<std::string_view> choices) {
  choice(key, value, std::vector<std::string>(choices.begin(), choices.end()));
}

void ConfigReader::integers(std::string_view key, std::vector<int64_t>& value, int64_t lo, int64_t hi) {
  const Json* v = node_->ask(key);
  if (!v) return;
  const Reporter r = reporter(*document_, *node_, key);
  std::vector<int64_t> out;
  for (const Json& item : r.list(*v)) out.push_back(r.item(out.size()).integer(item, lo, hi));
  value = std::move(out);
}

void ConfigReader::numbers(std::string_view key, std::vector<double>& value, double lo, double hi) {
  const Json* v = node_->ask(key);
  if (!v) return;
  const Reporter r = reporter(*document_, *node_, key);
  std::vector<double> out;
  for (const Json& item : r.list(*v)) out.push_back(r.item(out.size()).number(item, lo, hi));
  value = std::move(out);
}

void ConfigReader::texts(std::string_view key, std::vector<std::string>& value) {
  const Json* v = node_->ask(key);
  if (!v) return;
  const Reporter r = reporter(*document_, *node_, key);
  std::vector<std::string> out;
  for (const Json& item : r.list(*v)) out.push_back(r.item(out.size()).text(item));
  value = std::move(out);
}

ConfigReader ConfigReader::object(std::string_view key) {
  const Json* v = node_->ask(key);
  const Reporter r = reporter(*document_, *node_, key);
  if (v && !v->is_object()) r.fail(r.key + " must be an object", kind_of(*v));
  for (const auto& known : node_->children) {
    if (known->path == r.key + ".") return ConfigReader(document_, known);
  }
  auto child = std::make_shared<Node>();
  child->object = v;
  child->path = r.key + ".";
  node_->children.push_back(child);
  return ConfigReader(document_, child);
}

namespace {
template <typename Node>
void collect_unknown(const Node& node, std::vector<std::string>& out) {
  if (node.object) {
    for (const auto& [key, value] : node.object->items()) {
      if (!node.asked.contains(key)) out.push_back(node.path + key);
    }
  }
  for (const auto& child : node.children) collect_unknown(*child, out);
}

template <typename Node>
void collect_known(const Node& node, std::vector<std::string>& out) {
  for (const auto& key : node.asked) out.push_back(node.path + key);
  for (const auto& child : node.children) collect_known(*child, out);
}
}  // namespace

std::vector<std::string> ConfigReader::unknown_keys() const {
  std::vector<std::string> out;
  collect_unknown(*node_, out);
  return out;
}

void ConfigReader::refuse_unknown() const {
  const auto unknown = unknown_keys();
  if (unknown.empty()) return;
  std::vector<std::string> known;
  collect_known(*node_, known);
  const std::string near = nearest_word(unknown[0], known);
  Reporter{document_->where, document_->kind, {}}.fail(
      "every key must be one that is known", "'" + to_valid_utf8(unknown[0].substr(0, 80)) + "'",
      near.empty() ? "" : "'" + near + "'");
}

struct ConfigWriter::Impl {
  Json root = Json::object();
};

ConfigWriter::ConfigWriter() : impl_(std::make_unique<Impl>()) {}
ConfigWriter::~ConfigWriter() = default;
ConfigWriter::ConfigWriter(ConfigWriter&&) noexcept = default;
ConfigWriter& ConfigWriter::operator=(ConfigWriter&&) noexcept = default;

namespace {
void require_finite(std::string_view key, double value) {
  require(std::isfinite(value), [&] {
    return Error::Parts{.where = "config", .required = std::string(key) + " must be finite", .got = "NaN or infinity",
                        .hint = {}};
  });
}
void require_text(std::string_view key, std::string_view value) {
  require(is_valid_utf8(key) && is_valid_utf8(value), [&] {
    return Error::Parts{.where = "config", .required = to_valid_utf8(key) + " must be UTF-8", .got = "other bytes",
                        .hint = {}};
  });
}
}  // namespace

void ConfigWriter::set_integer(std::string_view key, int64_t value) { impl_->root[std::string(key)] = value; }
void ConfigWriter::set(std::string_view key, bool value) { impl_->root[std::string(key)] = value; }
void ConfigWriter::set(std::string_view key, double value) {
  require_finite(key, value);
  impl_->root[std::string(key)] = value;
}
void ConfigWriter::set(std::string_view key, std::string_view value) {
  require_text(key, value);
  impl_->root[std::string(key)] = std::string(value);
}
void ConfigWriter::set(std::string_view key, const std::vector<int64_t>& values) {
  impl_->root[std::string(key)] = values;
}
void ConfigWriter::set(std::string_view key, const std::vector<double>& values) {
  for (const double v : values) require_finite(key, v);
  impl_->root[std::string(key)] = values;
}
void ConfigWriter::set(std::string_view key, const std::vector<std::string>& values) {
  for (const auto& v : values) require_text(key, v);
  impl_->root[std::string(key)] = values;
}
void ConfigWriter::set(std::string_view key, const ConfigWriter& object) {
  impl_->root[std::string(key)] = object.impl_->root;
}

void ConfigWriter::keep_unknown(const ConfigReader& reader) {
  const auto& node = *reader.node_;
  if (!node.object) return;
  for (const auto& [key, value] : node.object->items()) {
    if (!node.asked.contains(key)) impl_->root[key] = value;
  }
}

std::string ConfigWriter::text() const { return impl_->root.dump(2) + "\n"; }

}  // namespace aspis
