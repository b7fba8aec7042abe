#include "aspis/models/config_fields.h"

#include <fmt/format.h>

#include <algorithm>

namespace aspis::config {
namespace {

template <typename T>
void check_range(const std::string& where, ErrorKind kind, const char* key, T value, T lo, T hi) {
  require(
      value >= lo && value <= hi,
      [&] {
        return Error::Parts{.where = where,
                            .required = value > hi ? fmt::format("{} must be at most {}", key, hi)
                                                   : fmt::format("{} must be at least {}", key, lo),
                            .got = fmt::format("{}", value),
                            .hint = ""};
      },
      kind);
}

}  // namespace

void in_range(const std::string& where, ErrorKind kind, const char* key, int64_t value, int64_t lo, int64_t hi) {
  check_range(where, kind, key, value, lo, hi);
}

void in_range(const std::string& where, ErrorKind kind, const char* key, double value, double lo, double hi) {
  check_range(where, kind, key, value, lo, hi);
}

void divides(const std::string& where, ErrorKind kind, const char* small, int64_t part, const char* large,
             int64_t whole) {
  require(
      part > 0 && whole % part == 0,
      [&] {
        return Error::Parts{.where = where,
                            .required = fmt::format("{} must divide {}", small, large),
                            .got = fmt::format("{} and {}", part, whole),
                            .hint = ""};
      },
      kind);
}

void one_of(const std::string& where, ErrorKind kind, const char* key, const std::string& value,
            const std::vector<std::string>& words) {
  require(
      std::find(words.begin(), words.end(), value) != words.end(),
      [&] {
        return Error::Parts{.where = where,
                            .required = fmt::format("{} must be one of {}", key, fmt::join(words, ", ")),
                            .got = fmt::format("\"{}\"", value),
                            .hint = nearest_word(value, words)};
      },
      kind);
}

}  // namespace aspis::config
