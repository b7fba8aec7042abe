#include "aspis/base/log.h"

#include <atomic>
#include <mutex>

namespace aspis {
namespace {

constexpr int kSilent = 100;
std::atomic<int> g_lowest{kSilent};
std::mutex g_mutex;
LogSink g_sink;

}  // namespace

std::string_view to_string(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug: return "debug";
    case LogLevel::kInfo: return "info";
    case LogLevel::kWarning: return "warning";
    case LogLevel::kError: return "error";
  }
  return "unknown";
}

void set_log_sink(LogSink sink, LogLevel lowest) {
  const std::lock_guard lock(g_mutex);
  g_sink = std::move(sink);
  g_lowest = g_sink ? static_cast<int>(lowest) : kSilent;
}

bool log_enabled(LogLevel level) { return static_cast<int>(level) >= g_lowest.load(std::memory_order_relaxed); }

void log(LogLevel level, std::string_view component, std::string_view message) {
  if (!log_enabled(level)) return;
  const std::lock_guard lock(g_mutex);
  if (g_sink) g_sink(level, component, message);
}

}  // namespace aspis
