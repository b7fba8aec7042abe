#include "aspis/cli/version.h"

#include <mlx/version.h>

#include "aspis/base/cpu.h"
#include "aspis/cli/notice.h"
#include "aspis/io/config_json.h"
#include "aspis/simd/isa.h"
#include "aspis/train/run_folder.h"

namespace aspis::cli {

std::string version_text(bool json) {
  if (!json) {
    return "aspis " + train::version() + " (" + train::commit() + "), engine MLX " + mlx::core::version() + ", " +
           active_isa() + "\n";
  }
  ConfigWriter w;
  w.set("version", train::version());
  w.set("commit", train::commit());
  w.set("engine", std::string("MLX ") + mlx::core::version());
  w.set("back_ends", std::vector<std::string>{"cpu", "composed"});
  w.set("isa", active_isa());
  w.set("isas", supported_isas());
  w.set("cpu", cpu_report().model);
  return w.text();
}

std::string license_text() { return kNotice; }

}  // namespace aspis::cli
