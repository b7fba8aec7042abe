#pragma once

#include <cstdint>
#include <string>

namespace aspis {

/// Seconds on the monotonic clock; only differences mean something.
double monotonic_seconds();

/// Wall-clock UTC time as "2026-11-24T03:51:14Z".
std::string utc_timestamp();

/// Local wall-clock time for folder names, as "2026-11-24_0351".
std::string folder_timestamp();

/// "3.2 s", "4 min 05 s", "2 h 10 min".
std::string format_duration(double seconds);

/// "312 kB", "1.42 GB" (powers of 1000).
std::string format_bytes(double bytes);

}  // namespace aspis
