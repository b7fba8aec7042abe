#include "aspis/cli/commands.h"
#include "aspis/cli/output.h"
#include "aspis/train/run_report.h"

namespace aspis::cli {

void add_report(CLI::App& app, Context& context) {
  auto folder = std::make_shared<std::string>();
  CLI::App* c = add_command(app, "report", "Look inside", "Make the report page of a run anew",
                            {"aspis report runs/first", "aspis report runs/first --json"}, [folder, &context] {
                              const auto page = train::render_run_report(*folder);
                              if (context.globals.json) {
                                print_out("{\"report\": \"" + page.string() + "\"}\n");
                              } else {
                                print_out(page.string() + "\n");
                              }
                            });
  c->add_option("run", *folder, "Run folder")->required();
}

}  // namespace aspis::cli
