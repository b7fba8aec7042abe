#pragma once

#include <string>

namespace aspis::cli {

/// Version, commit, engine and instruction sets, as text or JSON.
std::string version_text(bool json);

/// LICENSE summary and NOTICE, as built in.
std::string license_text();

}  // namespace aspis::cli
