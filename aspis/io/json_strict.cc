#include "aspis/io/json_strict.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string>
#include <unordered_set>
#include <vector>

#include "aspis/base/utf8.h"

namespace aspis {
namespace {

using Json = nlohmann::ordered_json;

// Builds the tree from parser events and refuses what the library would let
// pass. Insertion skips the library's search for an equal key, which would take
// quadratic time; the sets below do that.
class TreeBuilder {
 public:
  explicit TreeBuilder(int depth) : depth_(depth) {}

  Json root;
  std::string required, got;

  bool null() { return add(nullptr); }
  bool boolean(bool v) { return add(v); }
  bool number_integer(int64_t v) { return add(v); }
  bool number_unsigned(uint64_t v) {
    if (v > static_cast<uint64_t>(INT64_MAX)) return stop("an integer must fit in 64 bits", fmt::format("{}", v));
    return add(static_cast<int64_t>(v));
  }
  bool number_float(double v, const std::string& text) {
    if (text.find_first_of(".eE") == std::string::npos) {
      return stop("an integer must fit in 64 bits", text.substr(0, 40));
    }
    return add(v);
  }
  bool string(std::string& v) { return add(std::move(v)); }
  bool binary(Json::binary_t&) { return stop("JSON must hold text", "binary data"); }
  bool start_object(size_t) { return open(Json::object()); }
  bool end_object() { return close(); }
  bool start_array(size_t) { return open(Json::array()); }
  bool end_array() { return close(); }
  bool key(std::string& k) {
    if (!levels_.back().keys.insert(k).second) {
      return stop("a key must not occur twice in an object", "'" + to_valid_utf8(k.substr(0, 80)) + "' twice");
    }
    levels_.back().key = std::move(k);
    return true;
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) {
    return stop("the text must be correct JSON", fmt::format("an error at byte {}", position));
  }

 private:
  struct Level {
    Json* node;
    std::string key;
    std::unordered_set<std::string> keys;
  };

  bool stop(std::string what, std::string came) {
    required = std::move(what);
    got = std::move(came);
    return false;
  }

  template <typename T>
  Json* put(T&& value) {
    if (levels_.empty()) {
      root = std::forward<T>(value);
      return &root;
    }
    Level& level = levels_.back();
    if (level.node->is_array()) {
      level.node->push_back(std::forward<T>(value));
      return &level.node->back();
    }
    using Object = Json::object_t;
    auto& items = static_cast<Object::Container&>(level.node->get_ref<Object&>());
    items.emplace_back(std::move(level.key), std::forward<T>(value));
    return &items.back().second;
  }
  template <typename T>
  bool add(T&& value) {
    put(std::forward<T>(value));
    return true;
  }
  bool open(Json&& container) {
    if (static_cast<int>(levels_.size()) >= depth_) {
      return stop(fmt::format("JSON must be at most {} levels deep", depth_), "more");
    }
    levels_.push_back({put(std::move(container)), {}, {}});
    return true;
  }
  bool close() {
    levels_.pop_back();
    return true;
  }

  int depth_;
  // A pointer stays valid while its level is open: the containers above it do
  // not grow meanwhile.
  std::vector<Level> levels_;
};

}  // namespace

nlohmann::ordered_json parse_json_strict(std::string_view text, std::string_view where, ErrorKind kind,
                                         const JsonLimits& limits) {
  const auto fail = [&](std::string required, std::string got) {
    throw Error(kind, {.where = std::string(where), .required = std::move(required), .got = std::move(got), .hint = {}});
  };
  if (static_cast<int64_t>(text.size()) > limits.bytes) {
    fail(fmt::format("the text must have at most {} bytes", limits.bytes), fmt::format("{}", text.size()));
  }
  if (text.find('\0') != std::string_view::npos) fail("the text must be correct JSON", "a zero byte in it");
  TreeBuilder builder(limits.depth);
  if (!Json::sax_parse(text.begin(), text.end(), &builder)) fail(builder.required, builder.got);
  return std::move(builder.root);
}

}  // namespace aspis
