#include "aspis/cli/config_file.h"

#include <cstdlib>
#include <set>

#include "aspis/base/error.h"

namespace aspis::cli {
namespace {

std::set<std::string> g_flags;      // long names on the command line, without dashes
std::set<std::string> g_from_file;  // "command.key"

const CLI::Option* find_option(const CLI::App& app, const std::string& name) {
  for (const CLI::Option* option : app.get_options()) {
    if (option->check_lname(name)) return option;
  }
  return nullptr;
}

class ConfigReader : public CLI::ConfigTOML {
 public:
  explicit ConfigReader(const CLI::App& app) : app_(app) {}

  std::vector<CLI::ConfigItem> from_config(std::istream& input) const override {
    std::vector<CLI::ConfigItem> kept;
    for (auto& item : CLI::ConfigTOML::from_config(input)) {
      if (item.name == "++" || item.name == "--") {  // CLI11's marks for a table's begin and end
        kept.push_back(std::move(item));
        continue;
      }
      const CLI::App* command = &app_;
      if (!item.parents.empty()) {
        command = nullptr;
        std::vector<std::string> names;
        for (const CLI::App* sub : app_.get_subcommands([](const CLI::App*) { return true; })) {
          if (sub->get_name() == item.parents.front()) command = sub;
          names.push_back(sub->get_name());
        }
        if (!command) {
          const auto near = nearest_word(item.parents.front(), names);
          throw Error(ErrorKind::kUsage, {.where = "--config",
                                          .required = "a table must be named after a command",
                                          .got = "[" + item.parents.front() + "]",
                                          .hint = near.empty() ? "" : "[" + near + "]"});
        }
      }
      const CLI::Option* option = find_option(*command, item.name);
      if (!option) {
        std::vector<std::string> names;
        for (const CLI::Option* o : command->get_options()) {
          for (const auto& n : o->get_lnames()) names.push_back(n);
        }
        const auto near = nearest_word(item.name, names);
        throw Error(ErrorKind::kUsage,
                    {.where = "--config",
                     .required = "every key must be an option of '" + command->get_name() + "'",
                     .got = "the key '" + item.name + "'",
                     .hint = near.empty() ? "aspis " + command->get_name() + " --print-config" : near});
      }
      g_from_file.insert(command->get_name() + "." + option->get_lnames().front());
      const std::string env = option->get_envname();
      if (!env.empty() && std::getenv(env.c_str())) continue;
      kept.push_back(std::move(item));
    }
    return kept;
  }

 private:
  const CLI::App& app_;
};

}  // namespace

std::shared_ptr<CLI::Config> make_config_reader(const CLI::App& app) { return std::make_shared<ConfigReader>(app); }

void remember_flags(const std::vector<std::string>& arguments) {
  for (const auto& a : arguments) {
    if (a.rfind("--", 0) == 0) g_flags.insert(a.substr(2, a.find('=') == std::string::npos ? a.npos : a.find('=') - 2));
  }
}

std::string origin_of(const CLI::Option& option) {
  for (const auto& name : option.get_lnames()) {
    if (g_flags.count(name)) return "flag";
  }
  if (const auto env = option.get_envname(); !env.empty() && std::getenv(env.c_str())) return "environment " + env;
  for (const auto& name : g_from_file) {
    const auto dot = name.find('.');
    if (option.check_lname(name.substr(dot + 1))) return "file";
  }
  return option.count() ? "flag" : "default";
}

}  // namespace aspis::cli
