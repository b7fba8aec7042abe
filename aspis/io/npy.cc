#include "aspis/io/npy.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "aspis/io/checked.h"
#include "aspis/io/names.h"

namespace aspis {
namespace {

constexpr std::string_view kMagic = "\x93NUMPY";
constexpr uint64_t kMostHeader = 1 << 16;

std::optional<TensorDtype> dtype_of(std::string_view descr) {
  constexpr std::array<std::pair<std::string_view, TensorDtype>, 13> kTable{{{"b1", TensorDtype::kBool},
                                                                             {"u1", TensorDtype::kU8},
                                                                             {"i1", TensorDtype::kI8},
                                                                             {"i2", TensorDtype::kI16},
                                                                             {"u2", TensorDtype::kU16},
                                                                             {"f2", TensorDtype::kF16},
                                                                             {"V2", TensorDtype::kBF16},
                                                                             {"i4", TensorDtype::kI32},
                                                                             {"u4", TensorDtype::kU32},
                                                                             {"f4", TensorDtype::kF32},
                                                                             {"f8", TensorDtype::kF64},
                                                                             {"i8", TensorDtype::kI64},
                                                                             {"u8", TensorDtype::kU64}}};
  if (descr.size() < 2) return std::nullopt;
  const char order = descr.front();
  for (const auto& [word, dtype] : kTable) {
    if (descr.substr(1) != word) continue;
    // One byte has no order; '|V2' is how numpy itself spells two raw bytes.
    if (order == '<' || (order == '|' && (size_of(dtype) == 1 || word == "V2"))) return dtype;
  }
  return std::nullopt;
}

/// The three values of the header, read by the grammar of a Python literal as far
/// as numpy writes it.
class Header {
 public:
  Header(std::string_view text, const ModelFault& fault) : text_(text), fault_(fault) {}

  std::string descr;
  bool fortran = false;
  std::vector<int64_t> shape;

  void parse() {
    expect('{');
    int seen = 0;
    while (peek() != '}') {
      const std::string key = quoted();
      expect(':');
      const int bit = key == "descr" ? 1 : key == "fortran_order" ? 2 : key == "shape" ? 4 : 0;
      if (bit == 0 || (seen & bit)) stop("the keys descr, fortran_order and shape, once each", shown_name(key));
      seen |= bit;
      if (bit == 1) {
        if (peek() == '[') stop("one type for all values", "a record");
        descr = quoted();
      } else if (bit == 2) {
        fortran = word();
      } else {
        tuple();
      }
      if (peek() != '}') expect(',');
    }
    expect('}');
    if (seen != 7) stop("the keys descr, fortran_order and shape", "less");
    while (at_ < text_.size()) {
      const char c = text_[at_++];
      if (c != ' ' && c != '\n') stop("nothing after its dict", "more");
    }
  }

 private:
  [[noreturn]] void stop(std::string_view required, std::string got) const {
    fault_(fmt::format("the header must hold {}", required), std::move(got));
  }
  char peek() {
    while (at_ < text_.size() && text_[at_] == ' ') at_++;
    return at_ < text_.size() ? text_[at_] : '\0';
  }
  void expect(char c) {
    if (peek() != c) stop("a Python dict", fmt::format("no '{}' at byte {}", c, at_));
    at_++;
  }
  std::string quoted() {
    const char quote = peek();
    if (quote != '\'' && quote != '"') stop("quoted words", fmt::format("something else at byte {}", at_));
    const size_t end = text_.find(quote, at_ + 1);
    if (end == std::string_view::npos) stop("quoted words", "one without end");
    std::string s(text_.substr(at_ + 1, end - at_ - 1));
    at_ = end + 1;
    return s;
  }
  bool word() {
    peek();
    for (const auto& [name, value] : {std::pair<std::string_view, bool>{"True", true}, {"False", false}}) {
      if (text_.substr(at_, name.size()) == name) {
        at_ += name.size();
        return value;
      }
    }
    stop("True or False as fortran_order", "something else");
  }
  void tuple() {
    expect('(');
    while (peek() != ')') {
      int64_t n = 0;
      const size_t first = at_;
      for (; at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9'; at_++) {
        if (!checked_mul(n, 10, &n) || !checked_add(n, text_[at_] - '0', &n)) stop("sizes of 63 bits", "more");
      }
      if (at_ == first) stop("non-negative integers as shape", fmt::format("something else at byte {}", at_));
      // Python 2 wrote 3L.
      if (at_ < text_.size() && text_[at_] == 'L') at_++;
      shape.push_back(n);
      if (peek() != ')') expect(',');
    }
    at_++;
  }

  std::string_view text_;
  const ModelFault& fault_;
  size_t at_ = 0;
};

}  // namespace

WeightTensor parse_npy(std::string_view bytes, std::string name, std::string_view where) {
  const ModelFault fault(where, "get the file again; it is damaged or not an array of numpy");
  const ModelFault here(fmt::format("{} {}", where, shown_name(name)), "save it again with numpy.save");
  Cursor c(bytes, fault);
  if (c.take(kMagic.size()) != kMagic) here("an array of numpy must begin with its magic", "something else");
  const uint8_t version = c.u8();
  c.u8();
  if (version < 1 || version > 3) here("the version of an npy file must be 1 to 3", fmt::format("{}", version));
  const uint64_t length = version == 1 ? c.u16() : c.u32();
  if (length > kMostHeader) {
    here(fmt::format("the header must have at most {} bytes", kMostHeader), fmt::format("{}", length));
  }
  Header h(c.take(length), here);
  h.parse();
  const auto dtype = dtype_of(h.descr);
  if (!dtype) {
    here("an array must hold little-endian numbers or truth values (f2 f4 f8 V2 i1-i8 u1-u8 b1)",
         h.descr.find('O') != std::string::npos ? "Python objects, which would be a pickle" : shown_name(h.descr));
  }
  const std::string_view data = c.take(c.left());
  auto strides = row_major_strides(h.shape);
  int64_t step = 1;
  if (h.fortran) {
    for (size_t i = 0; i < strides.size(); i++) {
      strides[i] = step;
      // An overflow is found below, by the number of elements.
      if (!checked_mul(step, std::max<int64_t>(1, h.shape[i]), &step)) step = INT64_MAX;
    }
  }
  int64_t size = size_of(*dtype);
  bool fits = true;
  for (const int64_t d : h.shape) fits = fits && checked_mul(size, d, &size);
  if (fits && size != static_cast<int64_t>(data.size())) {
    here(fmt::format("an array must have the size of its shape {{{}}} and dtype {}", fmt::join(h.shape, ", "),
                     to_string(*dtype)),
         fmt::format("{} bytes", data.size()));
  }
  return cut_tensor("", std::move(name), *dtype, std::move(h.shape), std::move(strides), 0, data, here);
}

}  // namespace aspis
