#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

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
  void operator()(const char* key, double& value) { reader_.number(key, value, -1e30, 1e30); }
  void operator()(const char* key, bool& value) { reader_.flag(key, value); }
  void operator()(const char* key, std::string& value) { reader_.text(key, value); }
  void operator()(const char* key, std::vector<int64_t>& value) {
    reader_.integers(key, value, std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max());
  }

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

/// Throws `kind`, with `where` and the key, unless lo <= value <= hi.
void in_range(const std::string& where, ErrorKind kind, const char* key, int64_t value, int64_t lo, int64_t hi);
void in_range(const std::string& where, ErrorKind kind, const char* key, double value, double lo, double hi);
/// Throws unless `part` divides `whole`.
void divides(const std::string& where, ErrorKind kind, const char* small, int64_t part, const char* large,
             int64_t whole);
/// Throws unless `value` is one of `words`; the message names the nearest.
void one_of(const std::string& where, ErrorKind kind, const char* key, const std::string& value,
            const std::vector<std::string>& words);

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
