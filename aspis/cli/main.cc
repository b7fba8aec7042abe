#include <mlx/mlx.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <new>

#include "aspis/base/cpu.h"
#include "aspis/base/error.h"
#include "aspis/base/log.h"
#include "aspis/base/parallel.h"
#include "aspis/cli/commands.h"
#include "aspis/cli/config_file.h"
#include "aspis/cli/profile.h"
#include "aspis/cli/version.h"
#include "aspis/simd/isa.h"

namespace aspis::cli {
namespace {

constexpr const char* kDescription = "aspis: Mamba models for vision on plain CPUs: train, evaluate, use, measure";

constexpr const char* kFooter = R"(
Examples:
  aspis train --data fashion-mnist --epochs 4 --out runs/first
  aspis classify picture.png --model runs/first

Every option can be set as ASPIS_<OPTION> or in a TOML file (--config);
'aspis train --print-config' shows each value and its origin.
Exit codes: 0 ok, 1 run time, 2 usage, 3 input data, 4 model or weights,
5 device or memory, 73 run folder busy, 75 output not writable, 130 interrupted.)";

void add_globals(CLI::App& app, Context& context) {
  Globals& g = context.globals;
  app.add_flag("--json", g.json, "Results as JSON on stdout")->group("Global")->envname("ASPIS_JSON");
  app.add_option("--threads", g.threads, "Compute threads; 0: all cores this process may use")
      ->group("Global")->envname("ASPIS_THREADS")->check(CLI::Range(0, 1024))->capture_default_str();
  app.add_option("--color", g.color, "Colour on stderr; also NO_COLOR and CLICOLOR_FORCE")
      ->group("Global")->envname("ASPIS_COLOR")->check(CLI::IsMember({"auto", "on", "off"}))->capture_default_str();
  app.add_option("--isa", g.isa, "Highest instruction set to use; default: the best there is")
      ->group("Global")->envname("ASPIS_ISA");
  app.add_flag("-q,--quiet", g.quiet, "Only results and errors")->group("Global");
  app.add_flag("-v,--verbose", g.verbose, "More detail; twice for debugging")->group("Global");
  app.set_config("--config", "", "Run config (TOML, one table per command)")->group("Global")->envname("ASPIS_CONFIG");
  app.config_formatter(make_config_reader(app));
}

bool wants_color(const Globals& g) {
  if (g.color != "auto") return g.color == "on";
  if (const char* force = std::getenv("CLICOLOR_FORCE"); force && std::strcmp(force, "0") != 0) return true;
  if (std::getenv("NO_COLOR")) return false;
  return isatty(STDERR_FILENO) != 0;
}

// Everything that must be in place before the first array: threads, the
// engine's buffer cache (its default of 32 MB returns large buffers to the
// system at every step), its run-time compiler off.
void prepare(Context& context) {
  const Globals& g = context.globals;
  context.color_stderr = wants_color(g);
  context.stdout_is_terminal = isatty(STDOUT_FILENO) != 0;
  const LogLevel lowest = g.quiet ? LogLevel::kError : g.verbose >= 2 ? LogLevel::kDebug
                                                   : g.verbose == 1   ? LogLevel::kInfo
                                                                      : LogLevel::kWarning;
  set_log_sink(
      [](LogLevel level, std::string_view component, std::string_view message) {
        print_err(std::string(to_string(level)) + ": " + std::string(component) + ": " + std::string(message) + "\n");
      },
      g.verbose >= 1 && !g.quiet ? LogLevel::kDebug : lowest);
  if (g.threads > 0) set_num_threads(g.threads);
  if (!g.isa.empty()) force_isa(g.isa);
  namespace mx = mlx::core;
  mx::set_default_device(mx::Device::cpu);
  mx::disable_compile();
  const auto memory = cpu_report().memory_bytes;
  mx::set_cache_limit(std::max<size_t>(size_t{256} << 20, static_cast<size_t>(memory / 4)));
}

std::string colored(const Context& context, const char* code, const std::string& text) {
  return context.color_stderr ? std::string("\x1b[") + code + "m" + text + "\x1b[0m" : text;
}

// "error: " and one sentence.
void print_error(const Context& context, const std::string& message) {
  print_err(colored(context, "1;31", "error:") + " " + message + "\n");
}

// The deepest command that was named, for hints.
const CLI::App* active_command(const CLI::App& app) {
  const CLI::App* command = &app;
  while (!command->get_subcommands().empty()) command = command->get_subcommands().front();
  return command;
}

std::string command_path(const CLI::App* command) {
  return command->get_parent() ? command_path(command->get_parent()) + " " + command->get_name() : "aspis";
}

std::string hint_for_extra(const CLI::App& app, const std::string& word) {
  std::vector<std::string> known;
  const CLI::App* command = active_command(app);
  if (!word.empty() && word[0] == '-') {
    for (const CLI::App* c = command; c; c = c->get_parent()) {
      for (const CLI::Option* o : c->get_options([](const CLI::Option*) { return true; })) {
        for (const auto& n : o->get_lnames()) known.push_back("--" + n);
      }
    }
  } else {
    for (const CLI::App* s : command->get_subcommands([](const CLI::App*) { return true; })) {
      known.push_back(s->get_name());
    }
  }
  const auto near = nearest_word(word.substr(0, word.find('=')), known);
  return near.empty() ? command_path(command) + " --help" : near;
}

int usage_error(const Context& context, const CLI::App& app, const CLI::ParseError& e) {
  std::string message = e.what();
  std::string hint = command_path(active_command(app)) + " --help";
  if (const auto* extras = dynamic_cast<const CLI::ExtrasError*>(&e)) {
    // "The following arguments were not expected: --lrr 3"
    const auto list = message.substr(message.rfind(": ") + 2);
    std::string word = list.substr(0, list.find(' '));
    // CLI11 lists them from last to first; the first one on the line is what the user looks for.
    for (const auto& a : context.arguments) {
      if ((" " + list + " ").find(" " + a + " ") != std::string::npos) {
        word = a;
        break;
      }
    }
    const bool flag = !word.empty() && word[0] == '-';
    message = std::string("unknown ") + (flag ? "option" : "command or argument") + " '" + word + "'";
    hint = hint_for_extra(app, word);
    (void)extras;
  }
  while (!message.empty() && (message.back() == '\n' || message.back() == '.')) message.pop_back();
  print_error(context, message + ". Try: " + hint);
  return static_cast<int>(ErrorKind::kUsage);
}

// `--resume RUN` means the options of that run unless --config says otherwise.
std::vector<std::string> with_config_of_resumed_run(const std::vector<std::string>& arguments) {
  std::string run;
  for (size_t i = 0; i < arguments.size(); i++) {
    const std::string& a = arguments[i];
    if (a.rfind("--config", 0) == 0) return arguments;
    if (a == "--resume" && i + 1 < arguments.size()) run = arguments[i + 1];
    if (a.rfind("--resume=", 0) == 0) run = a.substr(9);
  }
  const auto config = std::filesystem::path(run) / "config.toml";
  std::error_code ec;
  if (run.empty() || !std::filesystem::exists(config, ec)) return arguments;
  auto extended = arguments;
  extended.push_back("--config=" + config.string());
  return extended;
}

int run(int argc, char** argv) {
  Context context;
  context.arguments.assign(argv + 1, argv + argc);
  remember_flags(context.arguments);
  auto arguments = with_config_of_resumed_run(without_profile_word(context.arguments));
  CLI::App app{kDescription, "aspis"};
  app.footer(kFooter);
  app.require_subcommand(0, 1);
  app.fallthrough();
  app.allow_config_extras(CLI::config_extras_mode::error);
  app.get_formatter()->column_width(34);
  add_globals(app, context);
  bool version = false, license = false;
  app.add_flag("--version", version, "Version and build; with --json everything about the build")->configurable(false);
  app.add_flag("--license", license, "Licence and the notices of what is built in")->configurable(false);
  app.parse_complete_callback([&] { prepare(context); });
  add_train(app, context);
  add_eval(app, context);
  add_classify(app, context);
  add_embed(app, context);
  add_features(app, context);
  add_explain(app, context);
  add_compare_models(app, context);
  add_convert(app, context);
  add_model(app, context);
  add_data(app, context);
  add_bench(app, context);
  add_profile(app, context);
  add_ops(app, context);
  add_doctor(app, context);
  add_report(app, context);
  add_completion(app, context);
  try {
    std::reverse(arguments.begin(), arguments.end());  // CLI11 takes them from the back
    app.parse(std::move(arguments));
    if (version) {
      print_out(version_text(context.globals.json));
    } else if (license) {
      print_out(license_text());
    } else if (app.get_subcommands().empty()) {
      print_out(app.help());
    }
    return context.exit_code;
  } catch (const CLI::CallForHelp&) {
    print_out(active_command(app)->help());
    return 0;
  } catch (const CLI::CallForAllHelp&) {
    print_out(app.help("", CLI::AppFormatMode::All));
    return 0;
  } catch (const CLI::ParseError& e) {
    context.color_stderr = wants_color(context.globals);
    return usage_error(context, app, e);
  } catch (const Error& e) {
    print_error(context, e.what());
    return e.exit_code();
  } catch (const std::bad_alloc&) {
    print_error(context, "not enough memory. Try: a smaller batch or model");
    return static_cast<int>(ErrorKind::kDevice);
  } catch (const std::exception& e) {
    print_error(context, std::string("unexpected: ") + e.what());
    return static_cast<int>(ErrorKind::kRuntime);
  }
}

}  // namespace
}  // namespace aspis::cli

int main(int argc, char** argv) { return aspis::cli::run(argc, argv); }
