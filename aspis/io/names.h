#pragma once

#include <string>
#include <string_view>

namespace aspis {

/// A name from a file as a message can show it: quoted, valid UTF-8, without
/// control characters, cut after 80 bytes.
std::string shown_name(std::string_view name);

}  // namespace aspis
