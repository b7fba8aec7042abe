#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace aspis::report {

/// "1,234,567".
std::string format_count(int64_t value);

/// Three significant digits with a letter for the power of 1000: "847", "1.23 k",
/// "26.5 M", "4.10 G". For parameters and multiply-adds. "-" if not finite.
std::string format_si(double value);

/// A fraction as "88.4 %"; "-" if not finite.
std::string format_percent(double fraction, int digits = 1);

/// Four significant digits, in the shorter of plain and exponent form:
/// "0.4123", "12.35", "1234", "1.2e-05". "nan", "inf" and "-inf" as such.
std::string format_number(double value, int digits = 4);

/// The shortest text that reads back as the same double; "nan", "inf", "-inf".
std::string format_exact(double value);

/// `text` safe inside HTML text and quoted attributes: & < > " ' are replaced by
/// entities, control characters and ill-formed UTF-8 by U+FFFD.
std::string escape_html(std::string_view text);

/// RFC 4648 base64 with padding.
std::string base64_encode(std::string_view bytes);

/// The bytes of a base64 text; throws `Error(kData)` naming `where` if it is
/// none (white space is not accepted).
std::string base64_decode(std::string_view text, std::string_view where);

/// `text` as one RFC 4180 field: quoted if it holds a comma, quote or line end.
std::string csv_field(std::string_view text);

/// `text` cut to at most `width` code points, the last one then being an
/// ellipsis ("…" or, without `utf8`, "~").
std::string shorten(std::string_view text, size_t width, bool utf8);

}  // namespace aspis::report
