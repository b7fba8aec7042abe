#include "aspis/train/run_folder.h"

#include <mlx/version.h>
#include <unistd.h>

#include "aspis/base/clock.h"
#include "aspis/base/cpu.h"
#include "aspis/base/error.h"
#include "aspis/base/parallel.h"
#include "aspis/io/config_json.h"
#include "aspis/simd/isa.h"

#ifndef ASPIS_COMMIT
#define ASPIS_COMMIT "unknown"
#endif
#ifndef ASPIS_VERSION
#define ASPIS_VERSION "0.0.0"
#endif

namespace aspis::train {

namespace fs = std::filesystem;

bool holds_run(const fs::path& path) {
  std::error_code ec;
  return fs::exists(path / "config.toml", ec) || fs::exists(path / "checkpoints", ec);
}

RunFolder::RunFolder(fs::path path, bool must_be_new) : path_(std::move(path)) {
  std::error_code ec;
  if (must_be_new && holds_run(path_)) {
    throw Error(ErrorKind::kUsage, {.where = "--out",
                                    .required = "a run folder must be new",
                                    .got = "'" + path_.string() + "', which holds a run",
                                    .hint = "--resume " + path_.string() + ", or another folder"});
  }
  fs::create_directories(path_, ec);
  if (ec || access(path_.c_str(), W_OK) != 0) {
    throw Error(ErrorKind::kBusy, {.where = path_.string(),
                                   .required = "the run folder must be a folder that can be written to",
                                   .got = ec ? ec.message() : "no permission",
                                   .hint = "--out with another place"});
  }
  lock_ = std::make_unique<FileLock>(path_ / "run.lock");
  log_ = std::make_unique<AppendFile>(path_ / "log.txt");
}

void RunFolder::log(std::string_view line) {
  log_->write(utc_timestamp() + " " + std::string(line) + "\n");
}

std::string version() { return ASPIS_VERSION; }
std::string commit() { return ASPIS_COMMIT; }

std::string environment_json(uint64_t seed) {
  const CpuReport cpu = cpu_report();
  ConfigWriter c;
  c.set("model", cpu.model);
  c.set("architecture", cpu.architecture);
  c.set("features", cpu.features);
  c.set("cores", cpu.cores);
  c.set("memory_bytes", cpu.memory_bytes);
  ConfigWriter w;
  w.set("time", utc_timestamp());
  w.set("aspis", version());
  w.set("commit", commit());
  w.set("engine", std::string("MLX ") + mlx::core::version());
  w.set("compiler", std::string(
#if defined(__clang__)
                        "clang " __clang_version__
#elif defined(__GNUC__)
                        "gcc " __VERSION__
#else
                        "unknown"
#endif
                        ));
  w.set("cpu", c);
  w.set("isa", active_isa());
  w.set("threads", num_threads());
  w.set("seed", static_cast<int64_t>(seed));
  w.set("pid", static_cast<int64_t>(getpid()));
  return w.text();
}

}  // namespace aspis::train
