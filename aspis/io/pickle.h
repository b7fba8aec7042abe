#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace aspis {

/// A value of a pickle, by its place in `Pickle::values`. Nothing of a pickle is
/// ever executed: what would be a call is a node that says so.
struct PickleValue {
  enum class Kind : uint8_t {
    kNone,
    kBool,        ///< `integer`
    kInt,         ///< `integer`
    kBigInt,      ///< more than 64 bits: `text` holds its little-endian bytes
    kFloat,       ///< `number`
    kText,        ///< `text`
    kBytes,       ///< `text`
    kTuple,       ///< `items`
    kList,        ///< `items`
    kSet,         ///< `items`
    kDict,        ///< `items`: key, value, key, value, ...
    kGlobal,      ///< `text`: "torch._utils._rebuild_tensor_v2"
    kCall,        ///< `items`: the global and the arguments (a tuple)
    kPersistent,  ///< `items`: the identifier
  };
  Kind kind = Kind::kNone;
  int64_t integer = 0;
  double number = 0;
  std::string text;
  std::vector<uint32_t> items;
};

struct Pickle {
  std::vector<PickleValue> values;
  uint32_t root = 0;
  size_t end = 0;  ///< bytes up to and with STOP
};

/// What the pickle reader accepts at most.
struct PickleLimits {
  int64_t values = 1000000;  ///< also of the stack and the memo
  int64_t text_bytes = int64_t{1} << 24;
};

/// What may be done with a global that a pickle names.
enum class PickleGlobal {
  kRefused,  ///< the file is refused, by the name
  kMapping,  ///< calls of it make a dict: collections.OrderedDict
  kNode,     ///< calls of it make a kCall node, which the reader of the file judges
};
using PickleGlobals = PickleGlobal (*)(std::string_view module, std::string_view name);

/// Reads a pickle of protocol 2 to 5 (Python's pickletools.py) without running
/// anything: the opcodes that plain data and state dictionaries use, and calls of
/// the globals that `globals` lets through, as inert nodes. Everything else is
/// refused by name: other opcodes, other globals, calls of what is no global.
/// Reads one pickle and leaves what follows it. Throws Error(kModel).
Pickle parse_pickle(std::string_view bytes, std::string_view where, PickleGlobals globals,
                    const PickleLimits& limits = {});

}  // namespace aspis
