#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string_view>

#include "aspis/base/error.h"

namespace aspis {

/// What `parse_json_strict` accepts at most.
struct JsonLimits {
  int64_t bytes = int64_t{1} << 20;
  int depth = 64;
};

/// Parses JSON from an untrusted file, keys kept in their order. Beyond correct
/// JSON it requires: the size and depth limits, no key twice in an object, no
/// integer outside 64 bits, no zero byte. Throws `Error(kind)` naming `where`.
nlohmann::ordered_json parse_json_strict(std::string_view text, std::string_view where, ErrorKind kind,
                                         const JsonLimits& limits = {});

}  // namespace aspis
