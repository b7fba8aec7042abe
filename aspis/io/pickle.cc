#include "aspis/io/pickle.h"

#include <fmt/format.h>

#include <bit>
#include <unordered_map>

#include "aspis/io/cursor.h"
#include "aspis/io/names.h"

namespace aspis {
namespace {

using Kind = PickleValue::Kind;

// Opcodes that are known and refused, for the sentence.
std::string_view refused_opcode(uint8_t op) {
  switch (op) {
    case 'i':
      return "INST";
    case 'o':
      return "OBJ";
    case 0x92:
      return "NEWOBJ_EX";
    case 0x82:
    case 0x83:
    case 0x84:
      return "EXT";
    case 'P':
      return "PERSID";
    case 'I':
      return "INT of protocol 0";
    case 'L':
      return "LONG of protocol 0";
    case 'S':
      return "STRING of protocol 0";
    case 'V':
      return "UNICODE of protocol 0";
    case 'F':
      return "FLOAT of protocol 0";
    case 'p':
    case 'g':
      return "PUT or GET of protocol 0";
    case 'd':
    case 'l':
      return "DICT or LIST of protocol 0";
    case 0x8b:
      return "LONG4";
    case 0x96:
      return "BYTEARRAY8";
    case 0x97:
    case 0x98:
      return "an out-of-band buffer";
    default:
      return "an unknown opcode";
  }
}

class Machine {
 public:
  Machine(std::string_view bytes, std::string_view where, PickleGlobals globals, const PickleLimits& limits)
      : fault_(where, "a file of tensors alone: torch.save(model.state_dict()), or safetensors"),
        c_(bytes, fault_),
        globals_(globals),
        limits_(limits) {}

  Pickle run() {
    if (c_.u8() != 0x80) fault_("a pickle must begin with its protocol", "something else");
    const uint8_t protocol = c_.u8();
    if (protocol < 2 || protocol > 5) fault_("the pickle protocol must be 2 to 5", fmt::format("{}", protocol));
    while (step(c_.u8())) {
    }
    if (stack_.size() != 1 || !marks_.empty())
      fault_("a pickle must end with one value", fmt::format("{}", stack_.size()));
    result_.root = stack_.back();
    result_.end = c_.at();
    return std::move(result_);
  }

 private:
  bool step(uint8_t op) {
    switch (op) {
      case '.':
        return false;
      case 0x95:
        c_.u64();
        break;  // FRAME: only a hint for reading ahead
      case '(':
        marks_.push_back(limited(stack_.size(), marks_.size()));
        break;
      case '}':
        push(Kind::kDict);
        break;
      case ']':
        push(Kind::kList);
        break;
      case ')':
        push(Kind::kTuple);
        break;
      case 0x8f:
        push(Kind::kSet);
        break;
      case 't':
        push_tuple(stack_.size() - pop_mark());
        break;
      case 0x85:
        push_tuple(1);
        break;
      case 0x86:
        push_tuple(2);
        break;
      case 0x87:
        push_tuple(3);
        break;
      case 'N':
        push(Kind::kNone);
        break;
      case 0x88:
        push(Kind::kBool).integer = 1;
        break;
      case 0x89:
        push(Kind::kBool).integer = 0;
        break;
      case 'J':
        push(Kind::kInt).integer = static_cast<int32_t>(c_.u32());
        break;
      case 'K':
        push(Kind::kInt).integer = c_.u8();
        break;
      case 'M':
        push(Kind::kInt).integer = c_.u16();
        break;
      case 0x8a:
        push_long(c_.take(c_.u8()));
        break;
      case 'G':
        push_float(c_.take(8));
        break;
      case 'X':
        push_text(Kind::kText, c_.u32());
        break;
      case 0x8c:
        push_text(Kind::kText, c_.u8());
        break;
      case 0x8d:
        push_text(Kind::kText, c_.u64());
        break;
      case 'U':
        push_text(Kind::kText, c_.u8());
        break;
      case 'T':
        push_text(Kind::kText, c_.u32());
        break;
      case 'B':
        push_text(Kind::kBytes, c_.u32());
        break;
      case 'C':
        push_text(Kind::kBytes, c_.u8());
        break;
      case 0x8e:
        push_text(Kind::kBytes, c_.u64());
        break;
      case 'c': {
        const std::string_view module = c_.line(), name = c_.line();
        push_global(module, name);
        break;
      }
      case 0x93: {
        const std::string name = text_of(pop(), "the name of a global"),
                          module = text_of(pop(), "the module of a global");
        push_global(module, name);
        break;
      }
      case 'R':
      case 0x81:
        call();
        break;
      case 'b':
        build();
        break;
      case 'Q': {
        const uint32_t id = pop();
        push(Kind::kPersistent).items = {id};
        break;
      }
      case 'q':
        memo_[c_.u8()] = top();
        break;
      case 'r':
        put(c_.u32());
        break;
      case 0x94:
        put(static_cast<uint32_t>(memo_.size()));
        break;
      case 'h':
        get(c_.u8());
        break;
      case 'j':
        get(c_.u32());
        break;
      case '0':
        pop();
        break;
      case '2':
        stack_.push_back(limited(top(), stack_.size()));
        break;
      case 's': {
        const uint32_t value = pop(), key = pop();
        add_pair(top(), key, value);
        break;
      }
      case 'u':
        set_items();
        break;
      case 'a': {
        const uint32_t value = pop();
        add_item(top(), value, Kind::kList);
        break;
      }
      case 'e':
        add_items(Kind::kList);
        break;
      case 0x90:
        add_items(Kind::kSet);
        break;
      default:
        fault_("a pickle must hold plain data and tensors only",
               fmt::format("{} ({:#04x}) at byte {}", refused_opcode(op), op, c_.at() - 1));
    }
    return true;
  }

  template <typename T>
  T limited(T value, size_t count) const {
    if (static_cast<int64_t>(count) >= limits_.values) {
      fault_(fmt::format("a pickle must hold at most {} values", limits_.values), "more");
    }
    return value;
  }

  PickleValue& push(Kind kind) {
    limited(0, result_.values.size());
    limited(0, stack_.size());
    result_.values.emplace_back();
    result_.values.back().kind = kind;
    stack_.push_back(static_cast<uint32_t>(result_.values.size() - 1));
    return result_.values.back();
  }
  PickleValue& value(uint32_t i) { return result_.values[i]; }
  uint32_t top() const {
    if (stack_.size() <= floor()) fault_("a pickle must push before it takes", "an empty stack");
    return stack_.back();
  }
  uint32_t pop() {
    const uint32_t i = top();
    stack_.pop_back();
    return i;
  }
  // What lies below the last mark cannot be taken.
  size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
  size_t pop_mark() {
    if (marks_.empty()) fault_("a pickle must mark before it collects", "no mark");
    const size_t at = marks_.back();
    marks_.pop_back();
    return at;
  }
  void push_tuple(size_t n) {
    if (stack_.size() < floor() + n) fault_("a pickle must push before it takes", "an empty stack");
    count_items(n);
    std::vector<uint32_t> items(stack_.end() - static_cast<std::ptrdiff_t>(n), stack_.end());
    stack_.resize(stack_.size() - n);
    push(Kind::kTuple).items = std::move(items);
  }
  void push_long(std::string_view bytes) {
    if (bytes.size() > 8) {
      push(Kind::kBigInt).text = std::string(bytes);
      return;
    }
    uint64_t v = !bytes.empty() && (bytes.back() & 0x80) ? ~uint64_t{0} : 0;
    for (size_t i = bytes.size(); i-- > 0;) v = v << 8 | static_cast<unsigned char>(bytes[i]);
    push(Kind::kInt).integer = static_cast<int64_t>(v);
  }
  void push_float(std::string_view bytes) {
    uint64_t v = 0;
    for (const char ch : bytes) v = v << 8 | static_cast<unsigned char>(ch);
    push(Kind::kFloat).number = std::bit_cast<double>(v);
  }
  void push_text(Kind kind, uint64_t n) {
    const std::string_view text = c_.take(n);
    text_bytes_ += static_cast<int64_t>(text.size());
    if (text_bytes_ > limits_.text_bytes) {
      fault_(fmt::format("a pickle must hold at most {} bytes of text", limits_.text_bytes), "more");
    }
    push(kind).text = std::string(text);
  }
  std::string text_of(uint32_t i, const char* what) {
    if (value(i).kind != Kind::kText) fault_(fmt::format("{} must be text", what), "something else");
    return value(i).text;
  }
  void push_global(std::string_view module, std::string_view name) {
    const PickleGlobal use = globals_(module, name);
    std::string full = std::string(module) + "." + std::string(name);
    if (use == PickleGlobal::kRefused) {
      fault_("a pickle must name nothing but what tensors are made of, because nothing in it is run",
             shown_name(full));
    }
    PickleValue& v = push(Kind::kGlobal);
    v.text = std::move(full);
    v.integer = use == PickleGlobal::kMapping;
  }

  // REDUCE and NEWOBJ: global and arguments become a node.
  void call() {
    const uint32_t arguments = pop(), callee = pop();
    if (value(callee).kind != Kind::kGlobal)
      fault_("a pickle must call a global by its name", "a call of something else");
    if (value(arguments).kind != Kind::kTuple) fault_("the arguments of a call must be a tuple", "something else");
    if (value(callee).integer == 0) {
      push(Kind::kCall).items = {callee, arguments};
      return;
    }
    // A mapping begins empty, as a copy of a dict or from a list of pairs.
    std::vector<uint32_t> items;
    for (const uint32_t a : value(arguments).items) {
      if (value(a).kind == Kind::kDict) items = value(a).items;
      if (value(a).kind != Kind::kList) continue;
      for (const uint32_t p : value(a).items) {
        const PickleValue& pair = value(p);
        if ((pair.kind != Kind::kTuple && pair.kind != Kind::kList) || pair.items.size() != 2) {
          fault_("a mapping must be made of pairs", "something else");
        }
        items.insert(items.end(), pair.items.begin(), pair.items.end());
      }
    }
    count_items(items.size());
    push(Kind::kDict).items = std::move(items);
  }
  // Attributes of an object: of a mapping that is its _metadata, of a node nothing is used.
  void build() {
    pop();
    const Kind kind = value(top()).kind;
    if (kind != Kind::kDict && kind != Kind::kCall) fault_("a state must belong to an object", "something else");
  }

  void put(uint32_t key) {
    limited(0, memo_.size());
    memo_[key] = top();
  }
  void get(uint32_t key) {
    const auto at = memo_.find(key);
    if (at == memo_.end()) fault_("a pickle must remember before it recalls", fmt::format("number {}", key));
    stack_.push_back(limited(at->second, stack_.size()));
  }

  void count_items(size_t n) {
    items_ += static_cast<int64_t>(n);
    if (items_ > 4 * limits_.values)
      fault_(fmt::format("a pickle must hold at most {} values", limits_.values), "more");
  }
  void add_pair(uint32_t to, uint32_t key, uint32_t item) {
    PickleValue& v = value(to);
    // Objects that are mappings too (Counter, CfgNode) may be filled; nothing of them is used.
    if (v.kind == Kind::kCall) return;
    if (v.kind != Kind::kDict) fault_("items must be set in a dict", "something else");
    count_items(2);
    v.items.push_back(key);
    v.items.push_back(item);
  }
  void add_item(uint32_t to, uint32_t item, Kind kind) {
    PickleValue& v = value(to);
    if (v.kind == Kind::kCall) return;
    if (v.kind != kind) fault_("items must be added to a list or set", "something else");
    count_items(1);
    v.items.push_back(item);
  }
  void set_items() {
    const size_t from = pop_mark();
    if ((stack_.size() - from) % 2 != 0 || from <= floor()) fault_("a dict must be set in pairs", "an odd number");
    for (size_t i = from; i < stack_.size(); i += 2) add_pair(stack_[from - 1], stack_[i], stack_[i + 1]);
    stack_.resize(from);
  }
  void add_items(Kind kind) {
    const size_t from = pop_mark();
    if (from <= floor()) fault_("items must be added to something", "an empty stack");
    for (size_t i = from; i < stack_.size(); i++) add_item(stack_[from - 1], stack_[i], kind);
    stack_.resize(from);
  }

  ModelFault fault_;
  Cursor c_;
  PickleGlobals globals_;
  PickleLimits limits_;
  Pickle result_;
  std::vector<uint32_t> stack_;
  std::vector<size_t> marks_;
  std::unordered_map<uint32_t, uint32_t> memo_;
  int64_t text_bytes_ = 0, items_ = 0;
};

}  // namespace

Pickle parse_pickle(std::string_view bytes, std::string_view where, PickleGlobals globals,
                    const PickleLimits& limits) {
  return Machine(bytes, where, globals, limits).run();
}

}  // namespace aspis
