#pragma once

#include <functional>
#include <string_view>

namespace aspis {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

/// Name in lower case: "debug", "info", "warning", "error".
std::string_view to_string(LogLevel level);

/// Receives every message at or above the level that was set with it.
/// `component` is the folder that speaks, e.g. "data". Called under a lock, from
/// any thread.
using LogSink = std::function<void(LogLevel level, std::string_view component, std::string_view message)>;

/// Sets where messages go. The library is silent until a program does this; an
/// empty sink makes it silent again.
void set_log_sink(LogSink sink, LogLevel lowest = LogLevel::kInfo);

/// True if a message of this level would reach the sink. Ask before building a
/// costly message.
bool log_enabled(LogLevel level);

void log(LogLevel level, std::string_view component, std::string_view message);
inline void log_debug(std::string_view component, std::string_view m) { log(LogLevel::kDebug, component, m); }
inline void log_info(std::string_view component, std::string_view m) { log(LogLevel::kInfo, component, m); }
inline void log_warning(std::string_view component, std::string_view m) { log(LogLevel::kWarning, component, m); }

}  // namespace aspis
