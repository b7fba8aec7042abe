#pragma once

#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "aspis/base/error.h"

namespace aspis {

/// Typed values out of a JSON object, such as a model's config.json.
///
///     ConfigReader r(text, path);
///     r.require_keys({"model_type"});
///     r.integer("d_state", config.state, 1, 1024);
///     r.choice("pool", config.pool, {"mean", "cls"});
///     ConfigReader m = r.object("mixer");
///     m.number("dt_min", config.dt_min, 0, 1);
///     r.refuse_unknown();            // or keep them: writer.keep_unknown(r)
///
/// A key that is absent or null leaves the value as it is. A wrong type or a
/// value out of range throws `Error(kind)` with the path of the key, e.g.
/// "mixer.dt_min". A key counts as known once a reader has asked for it.
class ConfigReader {
 public:
  /// Parses `text`, which must be one JSON object of at most 1 MB, 64 levels
  /// deep, without a key twice. `where` (the file) begins every message.
  ConfigReader(std::string_view text, std::string where, ErrorKind kind = ErrorKind::kModel);
  ~ConfigReader();
  ConfigReader(ConfigReader&&) noexcept;
  ConfigReader& operator=(ConfigReader&&) noexcept;

  /// True if the key is there and not null. Does not make it known.
  bool has(std::string_view key) const;
  /// Throws unless all these keys are there.
  void require_keys(std::initializer_list<std::string_view> keys) const;

  /// An integer in [lo, hi]; 2.0 and "2" are refused.
  template <std::integral T>
    requires(!std::same_as<T, bool>)
  void integer(std::string_view key, T& value, std::type_identity_t<T> lo, std::type_identity_t<T> hi) {
    value = static_cast<T>(read_integer(key, static_cast<int64_t>(value), static_cast<int64_t>(lo),
                                        static_cast<int64_t>(hi)));
  }
  /// A finite number, integer or not, in [lo, hi].
  template <std::floating_point T>
  void number(std::string_view key, T& value, double lo, double hi) {
    value = static_cast<T>(read_number(key, static_cast<double>(value), lo, hi));
  }
  void flag(std::string_view key, bool& value);
  void text(std::string_view key, std::string& value);
  /// A string that must be one of `choices`; the message names the nearest.
  void choice(std::string_view key, std::string& value, std::initializer_list<std::string_view> choices);
  void choice(std::string_view key, std::string& value, const std::vector<std::string>& choices);
  /// A list of integers, each in [lo, hi].
  void integers(std::string_view key, std::vector<int64_t>& value, int64_t lo, int64_t hi);
  /// A list of finite numbers, each in [lo, hi].
  void numbers(std::string_view key, std::vector<double>& value, double lo, double hi);
  /// A list of strings.
  void texts(std::string_view key, std::vector<std::string>& value);
  /// A nested object; an empty reader if the key is absent.
  ConfigReader object(std::string_view key);

  /// Dotted paths of the keys that no one asked for, in this object and in
  /// those opened with `object`.
  std::vector<std::string> unknown_keys() const;
  /// Throws if there is an unknown key; the message offers the nearest known one.
  void refuse_unknown() const;

 private:
  friend class ConfigWriter;
  struct Document;
  struct Node;
  ConfigReader(std::shared_ptr<Document> document, std::shared_ptr<Node> node);
  int64_t read_integer(std::string_view key, int64_t value, int64_t lo, int64_t hi);
  double read_number(std::string_view key, double value, double lo, double hi);

  std::shared_ptr<Document> document_;
  std::shared_ptr<Node> node_;
};

/// Builds a JSON object with keys in the order in which they are set; equal
/// calls give equal bytes.
class ConfigWriter {
 public:
  ConfigWriter();
  ~ConfigWriter();
  ConfigWriter(ConfigWriter&&) noexcept;
  ConfigWriter& operator=(ConfigWriter&&) noexcept;

  template <std::integral T>
    requires(!std::same_as<T, bool>)
  void set(std::string_view key, T value) {
    set_integer(key, static_cast<int64_t>(value));
  }
  /// Throws Error(kUsage) for NaN and infinity, which JSON cannot hold.
  void set(std::string_view key, double value);
  void set(std::string_view key, bool value);
  void set(std::string_view key, std::string_view value);
  void set(std::string_view key, const char* value) { set(key, std::string_view(value)); }
  void set(std::string_view key, const std::string& value) { set(key, std::string_view(value)); }
  void set(std::string_view key, const std::vector<int64_t>& values);
  void set(std::string_view key, const std::vector<double>& values);
  void set(std::string_view key, const std::vector<std::string>& values);
  void set(std::string_view key, const ConfigWriter& object);
  /// Copies the keys that `reader` did not ask for (this object's only), so that
  /// a config of another program survives reading and writing.
  void keep_unknown(const ConfigReader& reader);

  /// Two-space indented JSON that ends with a newline.
  std::string text() const;

 private:
  void set_integer(std::string_view key, int64_t value);
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace aspis
