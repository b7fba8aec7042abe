#include "aspis/cli/commands.h"

namespace aspis::cli {
namespace {

struct Entry {
  std::string path;   // "aspis model info"
  std::string words;  // sub-commands and options
};

void collect(const CLI::App& app, const std::string& path, std::vector<Entry>& entries) {
  Entry entry{path, ""};
  const auto add = [&](const std::string& word) { entry.words += (entry.words.empty() ? "" : " ") + word; };
  for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; })) add(sub->get_name());
  for (const CLI::App* level = &app; level; level = level->get_parent()) {
    for (const CLI::Option* o : level->get_options([](const CLI::Option*) { return true; })) {
      for (const auto& n : o->get_lnames()) add("--" + n);
    }
  }
  entries.push_back(entry);
  for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; })) {
    collect(*sub, path + " " + sub->get_name(), entries);
  }
}

std::string bash(const std::vector<Entry>& entries) {
  std::string out =
      "_aspis() {\n"
      "  local cur=${COMP_WORDS[COMP_CWORD]} path=aspis w i\n"
      "  for ((i = 1; i < COMP_CWORD; i++)); do\n"
      "    w=${COMP_WORDS[i]}\n"
      "    case \"$path $w\" in\n";
  std::string known;
  for (const auto& e : entries) {
    if (e.path != "aspis") known += (known.empty() ? "      \"" : "|\"") + e.path + "\"";
  }
  out += known + ") path=\"$path $w\" ;;\n    esac\n  done\n  case \"$path\" in\n";
  for (const auto& e : entries) out += "    \"" + e.path + "\") COMPREPLY=($(compgen -W \"" + e.words + "\" -- \"$cur\")) ;;\n";
  return out + "  esac\n}\ncomplete -o default -F _aspis aspis\n";
}

std::string fish(const std::vector<Entry>& entries) {
  std::string out = "complete -c aspis -f\n";
  for (const auto& e : entries) {
    std::string condition;
    if (e.path == "aspis") {
      condition = "__fish_use_subcommand";
    } else {
      // Every word of the path must have been typed.
      std::string rest = e.path.substr(6);
      for (size_t at = 0; at < rest.size();) {
        const size_t end = std::min(rest.find(' ', at), rest.size());
        condition += (condition.empty() ? "__fish_seen_subcommand_from " : "; and __fish_seen_subcommand_from ") +
                     rest.substr(at, end - at);
        at = end + 1;
      }
    }
    for (size_t at = 0; at < e.words.size();) {
      const size_t end = std::min(e.words.find(' ', at), e.words.size());
      const std::string word = e.words.substr(at, end - at);
      out += "complete -c aspis -n '" + condition + "' " + (word.rfind("--", 0) == 0 ? "-l " + word.substr(2) : "-a " + word) + "\n";
      at = end + 1;
    }
  }
  return out;
}

}  // namespace

void add_completion(CLI::App& app, Context&) {
  auto shell = std::make_shared<std::string>();
  CLI::App* c = add_command(app, "completion", "Help", "Print a completion script for a shell",
                            {"aspis completion bash > /etc/bash_completion.d/aspis", "aspis completion fish | source"},
                            [shell, &app] {
                              std::vector<Entry> entries;
                              collect(app, "aspis", entries);
                              if (*shell == "fish") {
                                print_out(fish(entries));
                              } else {
                                // zsh reads bash completions through bashcompinit.
                                print_out((*shell == "zsh" ? "autoload -U +X bashcompinit && bashcompinit\n" : "") + bash(entries));
                              }
                            });
  c->add_option("shell", *shell, "bash, zsh or fish")->required()->check(CLI::IsMember({"bash", "zsh", "fish"}));
}

}  // namespace aspis::cli
