#pragma once

#include <cstdint>
#include <limits>
#include <string>

#include "aspis/io/config_json.h"

/// A config lists its fields once, in a function that hands (key, member) to a
/// visitor; these two read and write them. Ranges are left to the config's own
/// `check`, which also serves configs that were never JSON.
namespace aspis::config {

class ReadFields {
 public:
  explicit ReadFields(ConfigReader& reader) : reader_(reader) {}
  void operator()(const char* key, int64_t& value) {
    reader_.integer(key, value, std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max());
  }
  void operator()(const char* key, std::string& value) { reader_.text(key, value); }

 private:
  ConfigReader& reader_;
};

class WriteFields {
 public:
  explicit WriteFields(ConfigWriter& writer) : writer_(writer) {}
  template <typename T>
  void operator()(const char* key, T& value) {
    writer_.set(key, value);
  }

 private:
  ConfigWriter& writer_;
};

/// Reads a config of one family: the text must be JSON, its model_type (if there
/// is one) this, every key known, every value of its type and in its range.
template <typename Config, typename Visit>
Config read(std::string_view text, const char* model_type, const std::string& where, ErrorKind kind, Visit visit) {
  ConfigReader reader(text, where, kind);
  std::string given = model_type;
  reader.choice("model_type", given, {model_type});
  Config c;
  visit(ReadFields(reader), c);
  reader.refuse_unknown();
  c.check(where, kind);
  return c;
}

template <typename Config, typename Visit>
std::string write(Config c, const char* model_type, Visit visit) {
  ConfigWriter writer;
  writer.set("model_type", model_type);
  visit(WriteFields(writer), c);
  return writer.text();
}

}  // namespace aspis::config
