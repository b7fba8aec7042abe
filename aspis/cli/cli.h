#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

/// The program's frame: options, output and errors have one manner for all
/// commands. A command is one file with one function that adds it to the
/// program; `commands.h` lists them.
namespace aspis::cli {

/// Options that every command takes.
struct Globals {
  bool json = false;
  bool quiet = false;
  int verbose = 0;  ///< number of -v
  int threads = 0;  ///< 0: all cores this process may use
  std::string color = "auto";
  std::string isa;  ///< "": the best the machine has
};

/// The parsed state of the program, handed to every command.
struct Context {
  Globals globals;
  /// Exit code of the command that ran.
  int exit_code = 0;
  std::vector<std::string> arguments;  ///< argv without the program name

  /// True if results go to a terminal, and whether to colour what goes to stderr.
  bool stdout_is_terminal = false;
  bool color_stderr = false;
};

/// Adds a command with its description and at least two examples, shown at the
/// end of its help. `run` is called after parsing.
CLI::App* add_command(CLI::App& app, const std::string& name, const std::string& group,
                      const std::string& description, const std::vector<std::string>& examples,
                      std::function<void()> run);

/// Adds an option in the manner of the program: default shown, environment name
/// ASPIS_<NAME>, key of the config file equal to the long name.
template <typename T>
CLI::Option* add_option(CLI::App* command, const std::string& names, T& value, const std::string& help) {
  CLI::Option* option = command->add_option(names, value, help);
  option->capture_default_str();
  // Given twice, the last one counts, as in most programs.
  if constexpr (std::is_arithmetic_v<T> || std::is_same_v<T, std::string>) option->take_last();
  if (!option->get_lnames().empty()) {
    std::string env = "ASPIS_";
    for (const char c : option->get_lnames().front()) env += c == '-' ? '_' : static_cast<char>(std::toupper(c));
    option->envname(env);
  }
  return option;
}
CLI::Option* add_flag(CLI::App* command, const std::string& names, bool& value, const std::string& help);

/// The options of a command as TOML, with a comment on where each value comes
/// from (default, file, environment, flag) if asked for.
std::string config_toml(const CLI::App& command, bool origins);

/// Text for stdout and stderr; checked, so that a closed pipe ends the program quietly.
void print_out(std::string_view text);
void print_err(std::string_view text);

/// Called while a terminal command works on something long: true once Ctrl-C or
/// SIGTERM has come. The second Ctrl-C ends the process at once.
bool interrupted();
int interrupt_exit_code();  ///< 130 or 143
void install_interrupt_handler();

}  // namespace aspis::cli
