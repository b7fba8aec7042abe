#include "aspis/cli/cli.h"

#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <map>

#include "aspis/base/error.h"
#include "aspis/cli/config_file.h"

namespace aspis::cli {

CLI::App* add_command(CLI::App& app, const std::string& name, const std::string& group,
                      const std::string& description, const std::vector<std::string>& examples,
                      std::function<void()> run) {
  CLI::App* command = app.add_subcommand(name, description);
  command->group(group);
  command->fallthrough();
  std::string footer = "\nExamples:";
  for (const auto& e : examples) footer += "\n  " + e;
  command->footer(footer);
  if (run) command->callback(std::move(run));
  return command;
}

namespace {

// CLI11 keeps no default of a flag.
std::map<const CLI::Option*, bool>& flag_defaults() {
  static std::map<const CLI::Option*, bool> defaults;
  return defaults;
}

}  // namespace

CLI::Option* add_flag(CLI::App* command, const std::string& names, bool& value, const std::string& help) {
  const bool initially = value;
  CLI::Option* option = command->add_flag(names, value, help);
  flag_defaults()[option] = initially;
  if (!option->get_lnames().empty()) {
    std::string env = "ASPIS_";
    for (const char c : option->get_lnames().front()) env += c == '-' ? '_' : static_cast<char>(std::toupper(c));
    option->envname(env);
  }
  return option;
}

namespace {

std::string toml_value(const CLI::Option& option) {
  const auto quoted = [](const std::string& text) {
    std::string out = "\"";
    for (const char c : text) {
      if (c == '"' || c == '\\') out += '\\';
      out += c;
    }
    return out + '"';
  };
  const auto is_number = [](const std::string& text) {
    if (text.empty()) return false;
    char* end = nullptr;
    std::strtod(text.c_str(), &end);
    return *end == '\0' && text.find_first_of("xXnN") == std::string::npos;
  };
  if (const auto flag = flag_defaults().find(&option); flag != flag_defaults().end()) {
    return (option.count() ? option.as<bool>() : flag->second) ? "true" : "false";
  }
  std::vector<std::string> values = option.results();
  if (values.empty()) {
    const std::string shown = option.get_default_str();
    return is_number(shown) ? shown : quoted(shown);
  }
  const auto one = [&](const std::string& v) { return is_number(v) ? v : quoted(v); };
  if (values.size() == 1) return one(values[0]);
  std::string out = "[";
  for (size_t i = 0; i < values.size(); i++) out += (i ? ", " : "") + one(values[i]);
  return out + "]";
}

}  // namespace

std::string config_toml(const CLI::App& command, bool origins) {
  std::string out = "[" + command.get_name() + "]\n";
  for (const CLI::Option* option : command.get_options([](const CLI::Option* o) { return o->get_configurable(); })) {
    if (option->get_lnames().empty()) continue;
    const std::string& name = option->get_lnames().front();
    if (name == "help" || name == "print-config") continue;
    std::string line = name + " = " + toml_value(*option);
    if (origins) line += std::string(line.size() < 34 ? 34 - line.size() : 1, ' ') + "# " + origin_of(*option);
    out += line + "\n";
  }
  return out;
}

namespace {

void print_to(std::FILE* stream, std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stream) != text.size() || std::fflush(stream) != 0) {
    // The reader is gone (`aspis ... | head`): nothing is left to tell anyone.
    std::_Exit(stream == stdout ? 0 : 1);
  }
}

volatile std::sig_atomic_t g_signal = 0;

extern "C" void on_signal(int signal) {
  if (g_signal) _exit(128 + signal);
  g_signal = signal;
}

}  // namespace

void print_out(std::string_view text) { print_to(stdout, text); }
void print_err(std::string_view text) { print_to(stderr, text); }

bool interrupted() { return g_signal != 0; }
int interrupt_exit_code() { return 128 + static_cast<int>(g_signal ? g_signal : SIGINT); }

void install_interrupt_handler() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

}  // namespace aspis::cli
