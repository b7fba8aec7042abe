#include "aspis/io/names.h"

#include "aspis/base/utf8.h"

namespace aspis {

std::string shown_name(std::string_view name) {
  constexpr size_t kMost = 80;
  std::string s = to_valid_utf8(name.substr(0, kMost));
  for (char& c : s) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  return "'" + s + (name.size() > kMost ? "...'" : "'");
}

}  // namespace aspis
