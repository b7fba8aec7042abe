#pragma once

#include <string>
#include <string_view>

namespace aspis {

/// True if `text` is well-formed UTF-8 (no overlong forms, surrogates or code
/// points above U+10FFFF).
bool is_valid_utf8(std::string_view text);

/// `text` with every ill-formed byte replaced by U+FFFD.
std::string to_valid_utf8(std::string_view text);

/// Number of code points; ill-formed bytes count one each. For column widths.
size_t utf8_length(std::string_view text);

}  // namespace aspis
